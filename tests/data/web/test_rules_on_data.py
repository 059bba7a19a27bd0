"""Rules on real text: what people wrote and checked passes, rubbish made from it falls."""

import io
import json
import random
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ilm_ray.config.thresholds import RULES as TABLE
from ilm_ray.data.documents.document import Verdict
from ilm_ray.data.documents.language import detect_language
from ilm_ray.data.documents.scores import score_batch
from ilm_ray.data.documents.sources import find_sources
from ilm_ray.data.web.clean.normalise import drop_chrome, normalise
from ilm_ray.data.web.clean.rules import first_failures
from ilm_ray.data.web.format.charset import decode
from ilm_ray.data.web.format.inputs import open_source
from ilm_ray.data.web.format.maintext import main_text
from ilm_ray.data.web.format.warc import read_captures
from tests.data.web.rubbish import KINDS

CHAPTER = {"en": 15_000, "zh": 4_000}  # characters: about 2,700 words


def verdicts(texts: list[str], language: str) -> list[Verdict | None]:
    cleaned = [drop_chrome(normalise(text))[0] for text in texts]
    languages = [language] * len(texts)
    return first_failures(score_batch(cleaned, languages), languages, TABLE)


def pass_rate(texts: list[str], language: str) -> float:
    outcomes = verdicts(texts, language)
    print([v for v in outcomes if v])  # shown where a rate is too low
    return sum(v is None for v in outcomes) / len(outcomes)


def book(path: Path) -> str:
    raw = path.read_bytes()
    for codec in ("utf-8", "gb18030" if "zh" in path.parent.name else "cp1252"):
        try:
            return raw.decode(codec)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


def chapters(text: str, size: int) -> list[str]:
    out, current = [], ""
    for line in text.replace("\r\n", "\n").split("\n"):
        current += line + "\n"
        if len(current) >= size and (size < 10_000 or not line.strip()):
            out.append(current)
            current = ""
    return out


def markdown(folder: Path, language: str) -> Iterator[str]:
    """Manual pages of a few hundred characters or more, as they are."""
    for archive in sorted(folder.glob("*.tar.gz" if language == "zh" else "d2l*.tar.gz")):
        with tarfile.open(archive) as files:
            for member in files.getmembers():
                opened = files.extractfile(member) if member.isfile() else None
                if opened is None:
                    continue
                text = io.TextIOWrapper(opened, "utf-8", errors="replace").read()
                han = len(re.findall("[一-鿿]", text)) / max(1, len(re.findall(r"\w", text)))
                if len(text) >= 400 and (han > 0.1) == (language == "zh"):
                    yield text


def prose(page: str) -> str:
    """A manual page without its front matter, code, template marks and addresses."""
    page = re.sub(r"(?s)\A---\n.*?\n---\n", "", page)
    page = re.sub(r"(?ms)^ *(```|~~~).*?^ *\1", "", page)
    page = re.sub(r"(?s)<!--.*?-->|\{\{.*?\}\}|^:(?:begin|end)_tab:.*?$", "", page)
    return re.sub(r"\]\([^)]*\)", "]", page)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_chapters_of_books_pass(shared_data: Path, language: str) -> None:
    names = {"en": ["16215.txt", "3261.txt", "6527.txt", "972.txt"], "zh": ["*.txt"]}[language]
    paths = [path for name in names for path in sorted((shared_data / "text" / f"books_{language}").glob(name))]
    texts = [chapter for path in paths for chapter in chapters(book(path), CHAPTER[language])[::2]]
    assert pass_rate(texts, language) >= 0.95


@pytest.mark.long
@pytest.mark.parametrize("language", ["en", "zh"])
def test_manuals_pass(shared_data: Path, language: str) -> None:
    pages = list(markdown(shared_data / "text" / "docs", language))[::3]
    assert pass_rate(pages, language) >= 0.9
    assert pass_rate([text for page in pages if len(text := prose(page)) >= 600], language) >= 0.95


def test_the_brown_corpus_passes(shared_data: Path) -> None:
    texts = []
    with zipfile.ZipFile(shared_data / "text" / "brown" / "brown.zip") as files:
        for name in sorted(n for n in files.namelist() if re.fullmatch(r"brown/c[a-r]\d\d", n))[::5]:
            words = [word.rsplit("/", 1)[0] for word in files.read(name).decode("utf-8", "replace").split()]
            texts.append(re.sub(r" (``|''|[.,;:?!)])(?:\1)?", r"\1", " ".join(words)).replace(". ", ".\n"))
    assert pass_rate(texts, "en") >= 0.95


def test_hand_cleaned_pages_pass(shared_data: Path) -> None:
    with (shared_data / "web" / "gold_cleanportaleval.jsonl").open(encoding="utf-8") as lines:
        golds = [re.sub(r"\nURL:.*\n|<[a-z]+>", "\n", json.loads(line)["gold"]) for line in lines]
    assert pass_rate([text for text in golds if len(text) >= 400], "en") >= 0.95


@pytest.mark.slow
def test_pages_of_the_extraction_gold_pass(shared_data: Path) -> None:
    """What falls are error messages, menus, lists of names and headlines run together: one page in twelve."""
    with (shared_data / "web" / "gold_text.jsonl").open(encoding="utf-8") as lines:
        gold = {json.loads(line)["url"] for line in lines}
    texts = []
    for source in find_sources(str(shared_data / "web" / "CC-MAIN-2024-10" / "*.warc.gz")):
        with open_source(source) as stream:
            for capture in read_captures(stream, 1 << 22, Counter()):
                text = main_text(decode(capture.body, capture.charset)[0]) or "" if capture.url in gold else ""
                if len(text) >= 200 and detect_language(text)[0] == "en":
                    texts.append(text)
    assert len(texts) > 30
    assert pass_rate(texts, "en") >= 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_rubbish_made_of_books_falls(shared_data: Path, language: str, kind: str) -> None:
    name = {"en": "16215.txt", "zh": "红楼梦.txt"}[language]
    rng = random.Random(1)
    pieces = chapters(book(shared_data / "text" / f"books_{language}" / name), CHAPTER[language])[2:42]
    rubbish = [KINDS[kind](normalise(piece)[:3000], language, rng) for piece in pieces]
    assert pass_rate(rubbish, language) <= 0.1
