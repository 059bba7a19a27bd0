"""Light edits of a text, each a kind that a leaked test item undergoes on its way through the web; seeded."""

import random
import re

# Files of the real benchmarks, relative to the folder `eval` of the real data.
REAL = (
    "agieval/*.jsonl", "bbh/bbh/*.json", "c3/*.json", "cmmlu/**/*.csv", "gsm8k/*", "humaneval/HumanEval.jsonl.gz",
    "humaneval_x/*.gz", "leval/**/*.jsonl", "llm_foundry_qa/*", "mbpp_sanitized/*.json", "mmlu/**/*.csv",
    "mt_bench/question.jsonl", "nq_open/*.jsonl", "theoremqa/*.json",
)  # fmt: skip

_PIECES = re.compile(r"[㐀-䶿一-鿿]|[^\W_㐀-䶿一-鿿]+|[^\w]|_")
_SENTENCES = re.compile(r"(?<=[,.;?!，。；？！])\s*|\n")
_EVERY_EN, _EVERY_ZH = 12, 20  # words, or characters, of which one is changed


def is_chinese(text: str) -> bool:
    return sum("一" <= c <= "鿿" for c in text) > len(text) / 4


def _pieces(text: str) -> tuple[list[str], list[int]]:
    pieces = _PIECES.findall(text)
    return pieces, [i for i, piece in enumerate(pieces) if re.match(r"\w", piece)]


def number(text: str, rng: random.Random) -> str | None:
    """One number becomes another, wherever it stands."""
    pieces, words = _pieces(text)
    numbers = [pieces[i] for i in words if pieces[i].isascii() and pieces[i].isdigit()]
    if not numbers:
        return None
    old = rng.choice(numbers)
    new = str(int(old) + rng.randint(1, 9))
    return "".join(new if piece == old else piece for piece in pieces)


def name(text: str, rng: random.Random) -> str | None:
    """One capitalised word, or two Chinese characters, become others, wherever they stand."""
    pieces, words = _pieces(text)
    if is_chinese(text):
        start = rng.choice(words)
        return text.replace("".join(pieces[start : start + 2]), "某甲")
    names = [pieces[i] for i in words if pieces[i][:1].isupper() and len(pieces[i]) > 2 and i]
    if not names:
        return None
    old = rng.choice(names)
    return "".join("Kwame" if piece == old else piece for piece in pieces)


def _changed(text: str, rng: random.Random, new: str) -> str:
    pieces, words = _pieces(text)
    for i in rng.sample(words, max(1, len(words) // (_EVERY_ZH if is_chinese(text) else _EVERY_EN))):
        pieces[i] = new
    return "".join(pieces)


def word(text: str, rng: random.Random) -> str:
    """Every twelfth word, or twentieth Chinese character, becomes another."""
    return _changed(text, rng, "另" if is_chinese(text) else "other")


def deletion(text: str, rng: random.Random) -> str:
    """As many words are left out."""
    return _changed(text, rng, "")


def clause(text: str, rng: random.Random) -> str | None:
    """Two neighbouring clauses or choices change places."""
    parts = [part for part in _SENTENCES.split(text) if part.strip()]
    if len(parts) < 2:
        return None
    i = rng.randrange(len(parts) - 1)
    parts[i], parts[i + 1] = parts[i + 1], parts[i]
    return ("" if is_chinese(text) else " ").join(parts)


def punctuation(text: str, rng: random.Random) -> str:
    """Marks are dropped or replaced, some words shouted, spaces doubled."""
    out = []
    for piece in _PIECES.findall(text):
        if re.match(r"[,.;:?!，。；：？！、]", piece):
            out.append(rng.choice(["", " ; ", " - ", piece]))
        else:
            out.append(piece.upper() if rng.random() < 0.1 else piece)
    return "".join(out).replace(" ", "  ")


KINDS = {
    "exact": lambda text, rng: text,
    "number": number,
    "name": name,
    "word": word,
    "deletion": deletion,
    "clause": clause,
    "punctuation": punctuation,
}
