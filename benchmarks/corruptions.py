"""Real sentences and broken copies of them: labelled data for the fluency classifier, English and Chinese.

A break is one of six kinds, each drawn from a seeded generator. Words are broken in English, characters in Chinese. A
break is meant to leave no sentence: one that lost two adjectives, or of which two words changed places, often still is.
"""

import random
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

Sentence = tuple[str, str]  # (document, sentence)
MIN_UNITS = {"en": 6, "zh": 10}
MAX_UNITS = {"en": 60, "zh": 100}

# Forms of which the other one is wrong in nearly every context.
_PAIRS = """is are, was were, has have, does do, a an, this these, that those, he him, they them, we us, go goes,
say says, come comes, make makes, take takes, seem seems, man men, woman women, child children, much many,
there their, to too,
than then, who whom"""
AGREEMENT = {a: b for pair in _PAIRS.split(",") for a, b in (pair.split(), pair.split()[::-1])}
AGREEMENT |= {"I": "me", "she": "her", "been": "be", "being": "be", "its": "their", "my": "mine", "his": "him"}
PARTICLES = dict(zip("的得地了着把被个些在再和而", "得的的着了被把些个再在而和", strict=True))
MARKUP = re.compile(r"```.*?```|`[^`]*`|\$[^$]*\$|\[[^]]*\]\([^)]*\)|[#*>|]", re.S)
JUNK = ["&nbsp;", "[edit]", "|", "<br>", "â€™", "Ã©", "\\n", ">>", "###", "%20", "{{", "}}", "***", "_", "ï¿½", "=="]


def english(data: Path) -> list[Sentence]:
    """Sentences of Brown, the books and the news articles under `data`; near-copies of a book are one document."""
    sentences: list[Sentence] = []
    with zipfile.ZipFile(data / "text/brown/brown.zip") as packed:
        for name in sorted(packed.namelist()):
            if re.fullmatch(r"brown/c[a-r]\d\d", name):
                for line in packed.read(name).decode("utf-8").splitlines():
                    if line.strip():
                        words = [word.rpartition("/")[0] for word in line.split()]
                        sentences.append((name, _written(words)))
    for book in ("16215", "3261", "6527", "dvldc10"):
        text = (data / f"text/books_en/{book}.txt").read_text("utf-8", "replace")
        for part, chapter in enumerate(re.split(r"\n(?=\s*(?:CHAPTER|Chapter|[IVXL]+\.)\b)", text)):
            for sentence in re.findall(r"[A-Z][^.!?]*[.!?][\"']?(?=\s)", " ".join(chapter.split())):
                sentences.append((f"{book}/{part}", sentence))
    for line in (data / "near_dup/articles_1000.train").read_text("utf-8", "replace").splitlines():
        name, _, text = line.partition(" ")
        for sentence in re.findall(r"[A-Z][^.!?]*[.!?]\"?(?=\s|$)", text):
            sentences.append((name, sentence))
    return _usable(sentences, "en")


def chinese(data: Path) -> list[Sentence]:
    """Sentences of the novels (a chapter is a document) and of the manuals (a page is one)."""
    sentences: list[Sentence] = []
    for book in sorted((data / "text/books_zh").glob("*.txt")):
        for part, chapter in enumerate(re.split(r"\n(?=第\S{1,6}回)", book.read_text("utf-8"))):
            sentences += ((f"{book.stem}/{part}", s) for s in _chinese_sentences(chapter))
    for manual in ("d2l-zh", "pingcap-docs-cn", "rust-book-cn"):
        with tarfile.open(data / f"text/docs/{manual}-md.tar.gz") as packed:
            for member in sorted(packed, key=lambda m: m.name):
                stream = packed.extractfile(member)
                if stream and member.name.endswith(".md") and not member.name.endswith("_origin.md"):
                    text = re.sub(
                        r"```.*?```|`[^`]*`|\$[^$]*\$|\[[^]]*\]\([^)]*\)|[#*>|]", "", stream.read().decode(), flags=re.S
                    )
                    sentences += ((f"{manual}/{member.name}", s) for s in _chinese_sentences(text))
    return _usable(sentences, "zh")


def corrupt(sentence: str, kind: str, language: str, rng: random.Random) -> str | None:
    """A broken copy, or None where this sentence cannot be broken this way."""
    units = sentence.split() if language == "en" else list(sentence)
    broken = KINDS[kind](list(units), language, rng)
    if broken is None or broken == units:
        return None
    return (" " if language == "en" else "").join(broken)


def _shuffled(units: list[str], language: str, rng: random.Random) -> list[str]:
    size = rng.randint(6, len(units))
    at = rng.randrange(len(units) - size + 1)
    window = units[at : at + size]
    rng.shuffle(window)
    return units[:at] + window + units[at + size :]


def _deleted(units: list[str], language: str, rng: random.Random) -> list[str]:
    gone = set(rng.sample(range(len(units) - 1), round(rng.uniform(0.25, 0.5) * len(units))))
    return [unit for i, unit in enumerate(units) if i not in gone]


def _repeated(units: list[str], language: str, rng: random.Random) -> list[str]:
    size = rng.randint(2, 5) if language == "en" else rng.randint(3, 9)
    at = rng.randrange(len(units) - size)
    return units[: at + size] + units[at : at + size] * rng.randint(1, 3) + units[at + size :]


def _noisy(units: list[str], language: str, rng: random.Random) -> list[str]:
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(units))
        if rng.random() < 0.5:
            units.insert(at, rng.choice(JUNK))
        else:
            letters = "abcdefghijklmnopqrstuvwxyz" if language == "en" else "锟斤拷烫屯葺鑴氓慸0x"
            units[at] = "".join(rng.choice(letters) for _ in range(rng.randint(2, 9)))
    return units


def _truncated(units: list[str], language: str, rng: random.Random) -> list[str]:
    return units[: max(3, round(rng.uniform(0.3, 0.85) * len(units)))]


def _disagreeing(units: list[str], language: str, rng: random.Random) -> list[str] | None:
    swap = AGREEMENT if language == "en" else PARTICLES
    places = [i for i, unit in enumerate(units) if unit in swap]
    if not places:
        return None
    for at in rng.sample(places, min(len(places), rng.randint(1, 3))):
        units[at] = swap[units[at]]
    return units


KINDS: dict[str, Callable[[list[str], str, random.Random], list[str] | None]] = {
    "shuffled": _shuffled,
    "deleted": _deleted,
    "repeated": _repeated,
    "noisy": _noisy,
    "truncated": _truncated,
    "disagreeing": _disagreeing,
}


def _written(words: list[str]) -> str:
    """Brown's tokens as a writer would have typed them."""
    text = " ".join(words).replace("``", "“").replace("''", "”").replace("`", "‘")
    text = re.sub(r" ([,.;:!?)”])", r"\1", text)
    return re.sub(r"([(“‘$]) ", r"\1", text)


def _chinese_sentences(text: str) -> Iterator[str]:
    for sentence in re.findall(r"[^。！？．\n]+[。！？．]", text):
        yield sentence.strip(" \t　“”\"'").replace("．", "。")


def _usable(sentences: list[Sentence], language: str) -> list[Sentence]:
    """The sentences of a fair length, each text once: one that two documents share belongs to the first."""
    seen: set[str] = set()
    kept = []
    for document, sentence in sentences:
        size = len(sentence.split()) if language == "en" else len(sentence)
        if MIN_UNITS[language] <= size <= MAX_UNITS[language] and sentence not in seen:
            seen.add(sentence)
            kept.append((document, sentence))
    return kept
