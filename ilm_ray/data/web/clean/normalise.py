"""Clean: one form for the same text, and lines that no author wrote taken out (report section 3.1).

Both functions are idempotent. Texts that look the same to a reader must become the same; characters that carry meaning
stay: letters, punctuation with its width, line breaks, joiners where a script needs them.
"""

import re
import unicodedata

from ilm_ray.data.documents.language import interchange
from ilm_ray.data.web.clean.chrome import is_chrome

# Most texts have none of these, nor anything beyond the basic plane: two searches spare them the slow steps.
_RARE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff"
    "\ufdd0-\ufdef\ufeff\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\ufff9-\ufffc\ufffe\uffff]"
)
_BEYOND = re.compile("[\U00010000-\U0010ffff]")
_BREAKS = re.compile("[\r\v\f\x85\u2028\u2029]")
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffc]")
# Joiners belong between letters of Arabic, Syriac, Mongolian and the Indic scripts, ZWJ also inside an emoji sequence.
_JOINED = "\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1800-\u18af\ua8e0-\ua8ff"
_EMOJI = "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"  # no spaces
_JOINERS = re.compile(
    f"(?<![{_JOINED}])\u200c|\u200c(?![{_JOINED}])|(?<![{_JOINED}{_EMOJI}\ufe0f])\u200d|\u200d(?![{_JOINED}{_EMOJI}])"
)
_FULL_WIDTH = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")  # digits and letters
# A full-width mark never starts a line or follows a space, and has its own space after it.
_MARK = re.compile("[，。、；：！？]")
_BEFORE_MARK = re.compile("(?<=\\S)[ \n](?=[，。、；：！？])")
_AFTER_MARK = re.compile("(?<=[，。、；：]) ")
_HAN = "\u3400-\u9fff"
# Chinese has no letter-spacing but this: three or more lone characters. A space between words may be a separator.
_SPACED = re.compile(f"[{_HAN}](?<!\\S.)(?: [{_HAN}]){{2,}}(?!\\S)")
# Spaces at the start of a line are a program's indentation, unless a Chinese sentence follows: that is a paragraph's.
_DEEPEST = 120  # columns of indentation; more is a page's layout
_PARAGRAPH = re.compile(f"^[ \\t]++(?=[{_HAN}“‘「『《【（])(?=[^\\n]*[，。、；：！？…]|[^\\n]{{40}})", re.MULTILINE)
_LONGEST_CHROME = 120  # characters


def normalise(text: str) -> str:
    """NFC; no control or invisible characters; single spaces within lines, at most one blank line in a row.

    Spaces and tabs at the start of a line stay, but for the first one: code needs them, and extraction leaves them
    nowhere else. Chinese: full-width letters and digits become half-width (punctuation stays), spaces around full-width
    marks and inside letter-spaced words go, and so does the indentation of paragraphs. Table rows with one cell become
    that cell. Other spaces between Chinese characters stay: they part the items of menus, names and verses, and the
    rules should see them.
    """
    text = text.replace("\r\n", "\n")
    if _RARE.search(text) or _BEYOND.search(text):
        text = _INVISIBLE.sub("", interchange(_BREAKS.sub("\n", text)))
        text = _FULL_WIDTH.sub(lambda match: chr(ord(match[0]) - 0xFEE0), _JOINERS.sub("", text))
    text = unicodedata.normalize("NFC", text)
    lines = [_tidy(line) for line in text.split("\n")]
    for number, line in enumerate(lines):
        lines[number] = _cell(line.lstrip())
        if lines[number]:
            break
    text = "\n".join(lines)
    if _MARK.search(text):
        text = _AFTER_MARK.sub("", _BEFORE_MARK.sub("", text))
    if not text.isascii():
        text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
        text = _PARAGRAPH.sub("", text)
    return _few_blank_lines(text)


def _tidy(line: str) -> str:
    """A line with its indentation, and single spaces within."""
    words = " ".join(line.split())
    if not line[:1].isspace() or not words:
        return _cell(words)
    indentation = line[: -len(line.lstrip())]
    if indentation.strip(" \t") or len(indentation) > _DEEPEST or _MARK.match(words):
        return _cell(words)
    return indentation + words


def _cell(line: str) -> str:
    """A table row of one cell is that cell, one of none is empty: pages use tables for layout."""
    if not line.startswith("|") or not line.endswith("|"):
        return line
    cells = [cell for cell in line.split("|") if cell and not cell.isspace()]
    return line if len(cells) > 1 else "".join(cells).strip()


def _few_blank_lines(text: str) -> str:
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip("\n")


def drop_chrome(text: str) -> tuple[str, int]:
    """A normalised text without the lines that belong to the page and not to its text, and how many those were.

    Whole lines only, and only where the line says nothing else: "read more", counters of likes, requests for scripts
    or cookies. C4 drops any line that names javascript; an article on it would lose its subject.
    """
    kept, removed, begun = list[str](), 0, False
    for line in text.split("\n"):
        if not begun:  # the first line has no indentation
            line = _cell(line.lstrip())
        if line and not line[0].isspace() and len(line) <= _LONGEST_CHROME and is_chrome(line.lower()):
            removed += 1
        else:
            kept.append(line)
            begun = begun or bool(line)
    return (_few_blank_lines("\n".join(kept)), removed) if removed else (text, 0)
