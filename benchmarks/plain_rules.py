"""The scores of the rules in plain Python, one rule at a time: slow and easy to see through. Oracle of the kernels."""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ilm_ray.data.documents.language import TOKENS
from ilm_ray.data.documents.phrases import STOP_WORDS_EN, STOP_WORDS_ZH, boilerplate

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
ENDS = set(".!?…。！？．｡؟۔।")
LINE_ENDS = ENDS | set(";；:：\"'”’」』》)）]】")
COMMAS = set(",;،，、；。：．")
NOT_PUNCTUATION = set("#*@\\_{}•‣†‡※")
BULLETS = set("•‣⁃◦▪▫●○■□◆◇►▶▸➤➢✓✔")
TAIL = "[\x80-\xbf" + bytes(range(0x80, 0xA0)).decode("cp1252", "ignore") + "]"
MOJIBAKE = re.compile(
    f"[ÂÃÐÑ]{TAIL}|â€{TAIL}?|[âãäåæçèé]{TAIL}{TAIL}|锟斤拷|烫烫烫+|屯屯屯+|[\ufffd\ue000-\uf8ff]|[\U000f0000-\U0010fffd]"
)
URL = re.compile(rf"(?:(?<![^\W_])|(?<={HAN.pattern}))(?:https?://|www\.)[!-~]+")
PHRASES = {tuple(TOKENS.findall(phrase)) for phrase in boilerplate()}


def fold(text: str) -> str:
    return "".join(c.lower() if len(c.lower()) == 1 and unicodedata.category(c) in ("Lu", "Lt") else c for c in text)


def is_punctuation(c: str) -> bool:
    return unicodedata.category(c)[0] == "P" and c not in NOT_PUNCTUATION


def is_symbol(c: str) -> bool:
    return not c.isspace() and not is_punctuation(c) and unicodedata.category(c)[0] not in "LNM" and not HAN.match(c)


def is_word(c: str) -> bool:
    return TOKENS.fullmatch(c) is not None and not HAN.match(c)


def columns(line: str) -> int:
    wide = {c for c in line if HAN.match(c) or (c < "\U00020000" and unicodedata.east_asian_width(c) in "WF")}
    return sum(2 if c in wide else 1 for c in line)


def in_codec(c: str, codec: str, last: int) -> bool:
    try:
        encoded = c.encode(codec)
    except UnicodeEncodeError:
        return False
    return len(encoded) == 2 and (0xB0 if codec == "gb2312" else 0xA4) <= encoded[0] <= last


def is_broken(above: str, below: str) -> bool:
    """Does a sentence go on from a short line to the one right below it?"""
    if columns(above) >= 30:
        return False
    comma = above[-1] in ",，、"
    if not (comma or TOKENS.fullmatch(above[-1])):
        return False
    lower = unicodedata.category(below[0]) == "Ll"
    return lower or below[0] in COMMAS or (comma and HAN.match(below[0]) is not None)


def copies(pieces: list[str]) -> list[str]:
    seen: set[str] = set()
    again = []
    for piece in pieces:
        if len(TOKENS.findall(piece)) < 3:
            continue
        if piece in seen:
            again.append(piece)
        seen.add(piece)
    return again


def top(words: list[str], n: int) -> int:
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return max((count * sum(map(len, gram)) for gram, count in counts.items() if count > 1), default=0)


def covered(words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    inside: set[int] = set()
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        if gram in seen:
            inside |= set(range(i, i + n))
        seen.add(gram)
    return sum(len(words[i]) for i in inside)


def misplaced(line: str) -> int:
    wrong = 0
    for i, c in enumerate(line):
        if c not in COMMAS:
            continue
        before = line[i - 1] if i else " "
        after_mark = before in COMMAS or (c > "\u3000" and before in "！？“‘「『（《〈【〔")
        wrong += before.isspace() or (after_mark and before != c)
    bound = re.findall(f"(?<=[{re.escape(''.join(COMMAS))}])[的了们們](?![确確士解不如然却卻结結断斷事的])", line)
    return wrong + len(bound)


def unpunctuated(line: str) -> int:
    """Tokens in stretches of more than 80 that no punctuation ends; inside a word it ends none."""
    stretches, since, i = [], 0, 0
    while i < len(line):
        if token := TOKENS.match(line, i):
            since, i = since + 1, token.end()
            continue
        if is_punctuation(line[i]) and not (i + 1 < len(line) and is_word(line[i + 1])):
            stretches.append(since)
            since = 0
        i += 1
    return sum(length for length in [*stretches, since] if length > 80)


def boilerplate_chars(line: str) -> int:
    """A phrase speaks for three times its characters in a line of at most 80, in a longer one for itself."""
    words = TOKENS.findall(fold(line))
    grams = [words[i : i + n] for n in range(1, 9) for i in range(len(words) - n + 1)]
    said = sum(len("".join(gram)) for gram in grams if tuple(gram) in PHRASES)
    return min(len(line), said * (3 if len(line) <= 80 else 1))


def finished_chars(line: str) -> int:
    """Characters up to the last sentence end; a line that ends in a quote, bracket or colon is finished as a whole."""
    if line[-1] in LINE_ENDS:
        return len(line)
    ends = [i for i in range(len(line) - 1) if line[i] in ENDS and ends_here(line[i + 1])]
    return max((i + 1 for i in ends if line[i] > "\u2000" or not HAN.match(line[i + 1])), default=0)


def ends_here(following: str) -> bool:
    return following not in ENDS and not is_word(following)


def plain_scores(text: str, language: str) -> dict[str, float]:
    rows = [piece.strip() for piece in text.split("\n")]
    lines = [row for row in rows if row]
    neighbours = [(a, b) for a, b in itertools.pairwise(rows) if a and b]
    paragraphs = [p for p in re.split(r"\n{2,}", "\n".join(rows).strip("\n")) if p]
    joined = "\n".join(lines)
    words = TOKENS.findall(fold(joined))
    visible = [c for c in joined if not c.isspace()]
    alphabet = [c for c in joined if TOKENS.fullmatch(c)]
    han = [c for c in joined if HAN.match(c)]
    simplified = [c for c in han if in_codec(c, "gb2312", 0xF7)]
    traditional = [c for c in han if c not in simplified and in_codec(c, "big5", 0xC6)]
    marks = [c for c in joined if c in COMMAS]
    ends = [i for i, c in enumerate(joined) if c in ENDS and (i + 1 == len(joined) or ends_here(joined[i + 1]))]
    span = 2 if language == "zh" else 1
    stops = STOP_WORDS_ZH if language == "zh" else STOP_WORDS_EN
    runs = [m[0] for m in re.finditer(r"(.)\1*", joined)]
    ellipses = sum(c == "#" for c in joined) + sum(r[0] == "…" or (r[0] == "." and len(r) > 2) for r in runs)
    chars, tokens = sum(map(len, words)), len(words)
    line_chars = sum(map(len, lines))
    bullets = [line for line in lines if line[0] in BULLETS or (line[0] in "-*+·" and (line + " ")[1].isspace())]
    separators = [r for r in runs if len(r) > 3 and (is_punctuation(r[0]) or is_symbol(r[0]))]
    markup = [line for line in lines if re.search(r"[{}]|</|/>|=>", line) or line.endswith(");")]

    def share(part: int, whole: int) -> float:
        return float(np.round(min(part / max(whole, 1), 1), 4))

    return {
        "words": float(tokens),
        "stop_words": float(len(set(words) & set(stops))),
        "broken_encoding_ratio": share(sum(len(m[0]) for line in lines for m in MOJIBAKE.finditer(line)), len(visible)),
        "symbol_ratio": share(sum(map(is_symbol, visible)), len(visible)),
        "digit_ratio": share(sum(unicodedata.category(c) == "Nd" for c in visible), len(visible)),
        "url_ratio": share(sum(len(m[0]) for line in lines for m in URL.finditer(line)), len(visible)),
        "upper_ratio": share(sum(unicodedata.category(c) in ("Lu", "Lt") for c in alphabet), letters(alphabet)),
        "han_ratio": share(len(han), letters(alphabet)),
        "rare_han_ratio": share(len(han) - len(simplified) - len(traditional), len(han)),
        "traditional_han_ratio": share(len(traditional), len(han)),
        "mean_word_chars": float(np.round(chars / max(tokens, 1), 4)),
        "alphabetic_word_ratio": share(sum(letters(list(word)) > 0 for word in words), tokens),
        "symbols_per_word": float(np.round(ellipses / max(tokens, 1), 4)),
        "mean_line_width": float(np.round(sum(map(columns, lines)) / max(len(lines), 1), 4)),
        "short_line_ratio": share(sum(columns(line) < 30 for line in lines), len(lines)),
        "broken_line_ratio": share(sum(is_broken(a, b) for a, b in neighbours), len(lines)),
        "bullet_line_ratio": share(len(bullets), len(lines)),
        "ellipsis_line_ratio": share(sum(line.endswith(("…", "...")) for line in lines), len(lines)),
        "separator_ratio": share(sum(map(len, separators)), len(visible)),
        "markup_line_ratio": share(len(markup), len(lines)),
        "boilerplate_ratio": share(sum(map(boilerplate_chars, lines)), line_chars),
        "punctuation_ratio": share(sum(map(is_punctuation, visible)), len(visible)),
        "terminal_punctuation_ratio": share(sum(map(finished_chars, lines)), line_chars),
        "misplaced_punctuation_ratio": share(max(sum(map(misplaced, lines)) - 2, 0), len(marks)),
        "unpunctuated_ratio": share(sum(map(unpunctuated, lines)), tokens),
        "mean_sentence_words": float(np.round(tokens / max(len(ends), 1), 4)),
        "duplicate_line_ratio": share(len(copies(lines)), len(lines)),
        "duplicate_line_char_ratio": share(sum(map(len, copies(lines))), line_chars),
        "duplicate_paragraph_char_ratio": share(sum(len(p.replace("\n", "")) for p in copies(paragraphs)), line_chars),
        **{f"top_{n}gram_ratio": share(top(words, n * span), chars) for n in (2, 3, 4)},
        **{f"duplicate_{n}gram_ratio": share(covered(words, n * span), chars) for n in (5, 10)},
    }  # fmt: skip


def letters(characters: Sequence[str]) -> int:
    return sum(unicodedata.category(c)[0] == "L" or HAN.match(c) is not None for c in characters)
