"""The rule of `ilm_ray/data/decontamination/match.py` once more, word for word and as slow as it reads."""

import re

from ilm_ray.data.decontamination.match import MAX_IN_ORDER, MIN_IN_ORDER, SLACK, STRETCH
from ilm_ray.data.documents.language import TOKENS

_WIDE = {c: c - 0xFEE0 for c in range(0xFF01, 0xFF5F)}
_LABEL = re.compile(r"[).:）．：、]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def plain_words(text: str) -> list[str]:
    """Small words of normal width without the labels of choices."""
    words = []
    for match in TOKENS.finditer(text):
        folded = match[0].translate(_WIDE).lower()
        marked = _LABEL.match(text, match.end()) or match.start() == 0 or text[match.start() - 1] == "\n"
        if not (len(folded) == 1 and folded in "abcdefgh" and marked):
            words.append(folded)
    return words


def plain_runs(words: list[str], ngram: int) -> dict[int, tuple[str, ...]]:
    """Place -> the run that starts there."""
    runs = {}
    for start in range(len(words)):
        size, end = 0, start
        while size < 2 * ngram and end < len(words):
            size += 1 if _HAN.fullmatch(words[end]) else 2
            end += 1
        if size >= 2 * ngram:
            runs[start] = tuple(words[start:end])
    return runs


def longest_common(first: list[str], second: list[str]) -> int:
    rows = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            rows[i + 1][j + 1] = rows[i][j] + 1 if a == b else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


def plain_share(text: str, passage: str, common: set[tuple[str, ...]], ngram: int, share: float) -> float:
    """The largest share of the passage's own words that a stretch of the text holds."""
    document, wanted = plain_words(text), plain_words(passage)
    runs = {place: run for place, run in plain_runs(wanted, ngram).items() if run not in common}
    rare = {word for place, run in runs.items() for word in range(place, place + len(run))}
    limit = int(len(wanted) * STRETCH) + SLACK
    hits = [(i, run) for i, run in plain_runs(document, ngram).items() if run in runs.values()]
    best: tuple[int, int, int] = (0, 0, 0)
    for last in range(len(hits)):
        end = hits[last][0] + len(hits[last][1])
        inside = [hit for hit in hits[: last + 1] if end - hit[0] <= limit]
        shared = {run for _, run in inside}
        covered = {w for place, run in runs.items() if run in shared for w in range(place, place + len(run))} & rare
        if len(covered) > best[0]:
            best = (len(covered), inside[0][0], end)
    value = best[0] / len(rare)
    if share / 2 <= value < share and MIN_IN_ORDER <= len(rare) <= MAX_IN_ORDER:
        room = (limit - (best[2] - best[1])) // 2
        window = document[max(0, best[1] - room) : best[2] + room]
        value = max(value, longest_common([w for i, w in enumerate(wanted) if i in rare], window) / len(rare))
    return value
