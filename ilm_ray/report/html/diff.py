"""Differences of two texts as page markup: `<del>` and `<ins>`, coloured by the page's style, read out as such."""

import difflib
import re
import unicodedata
from collections.abc import Sequence

from ilm_ray.report.html.page import Html, text

CHARS, LINES, WORDS = 20_000, 400, 1500  # of each text that are compared: the time grows with their product
SHOWN = 60  # lines, or changes inside a running text
LINE_CHARS = 240
_CONTEXT = 12  # words around a change
Opcode = tuple[str, int, int, int, int]  # kind, stretch of the old pieces, stretch of the new ones
_LINE = re.compile(r"(?m)^.*$")
_WORD = re.compile(r"\s|[\u3400-\u9fff]|\w+|[^\w\s]")


def line_diff(before: str, after: str) -> Html:
    """Lines taken out and put in, with one line around them; a line that changed is shown once, its words marked."""
    parts: list[str] = []
    old, new, opcodes = _compared(before, after, _LINE, LINES)
    for place, (kind, a, b, c, d) in enumerate(opcodes):
        if kind == "equal":
            shown = _lines_around(old[a:b], place > 0, place < len(opcodes) - 1)
            parts += [f"<div>{text(_cut(line))}</div>" for line in shown]
        elif kind == "replace" and b - a == d - c:
            parts += [f"<div>{''.join(_changes(x, y))}</div>" for x, y in zip(old[a:b], new[c:d], strict=True)]
        else:
            parts += [f"<div>{_marked('del', _cut(line) or '↵')}</div>" for line in old[a:b]]
            parts += [f"<div>{_marked('ins', _cut(line) or '↵')}</div>" for line in new[c:d]]
    return _box(parts)


def word_diff(before: str, after: str) -> Html:
    """Words taken out and put in, inside the running text; long stretches that are equal are left out."""
    return _box(_changes(before, after))


def _changes(before: str, after: str) -> list[str]:
    parts: list[str] = []
    old, new, opcodes = _compared(before, after, _WORD, WORDS)
    for place, (kind, a, b, c, d) in enumerate(opcodes):
        if kind == "equal":
            parts.append(_words_around(old[a:b], place > 0, place < len(opcodes) - 1))
        else:
            parts.append(_marked("del", "".join(old[a:b])) + _marked("ins", "".join(new[c:d])))
    return parts


def _compared(
    before: str, after: str, piece: re.Pattern[str], limit: int
) -> tuple[list[str], list[str], Sequence[Opcode]]:
    """The first `limit` pieces of both and the edits between them; no step where they are equal.

    Where a text was cut, a difference at its end means nothing.
    """
    if before == after:
        return [], [], []
    old, new = piece.findall(before[:CHARS]), piece.findall(after[:CHARS])
    was_cut = max(len(old), len(new)) > limit or max(len(before), len(after)) > CHARS
    old, new = old[:limit], new[:limit]
    steps = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return old, new, steps[:-1] if was_cut and steps[-1][0] != "equal" else steps


def _lines_around(lines: Sequence[str], before: bool, after: bool) -> Sequence[str]:
    """The line behind a change and the line before the next one."""
    if len(lines) <= before + after + 1:
        return lines
    return [*lines[: int(before)], "…", *lines[len(lines) - int(after) :]]


def _words_around(words: Sequence[str], before: bool, after: bool) -> str:
    """An equal stretch, cut in the middle if it is long."""
    if len(words) <= 4 * _CONTEXT:
        return text("".join(words))
    head = "".join(words[: 2 * _CONTEXT]) if before else ""
    tail = "".join(words[-2 * _CONTEXT :]) if after else ""
    return f"{text(head)}<span class=skip> … </span>{text(tail)}"


def _marked(tag: str, words: str) -> str:
    return f"<{tag}>{text(_visible(words))}</{tag}>" if words else ""


def _visible(words: str) -> str:
    """Names invisible characters, so that a reader sees a change of them."""
    words = words.replace("\n", "↵\n")
    return "".join(f"⟨U+{ord(c):04X}⟩" if c not in " \n" and unicodedata.category(c) in _UNSEEN else c for c in words)


_UNSEEN = {"Zs", "Zl", "Zp", "Cf", "Cc", "Co", "Cn", "Cs"}


def _cut(line: str) -> str:
    return line if len(line) <= LINE_CHARS else line[:LINE_CHARS] + " …"


def _box(parts: Sequence[str]) -> Html:
    rest = "<div class=skip>… more changes follow</div>" if len(parts) > SHOWN else ""
    shown = "".join(parts[:SHOWN]) or "no difference"
    return Html(f'<div class="quoted diff" dir="auto">{shown}{rest}</div>')
