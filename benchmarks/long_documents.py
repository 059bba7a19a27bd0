"""Documents for benchmarks/long_text.py: chapters, essays and manual pages, and what no one should train on.

A document knows its domain and its work (a novel, a manual; an essay of the Brown corpus is a work by itself).
"""

import csv
import gzip
import hashlib
import io
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lxml.html
from fastwarc.warc import ArchiveIterator, WarcRecordType

MIN_BYTES = 8000  # a quarter of the report's 32 KB: most texts at hand are no longer
_CHAPTER = re.compile(r"\n(?=[\s　]*第[一二三四五六七八九十百零○〇]+回)|\n\n+(?=(?:CHAPTER|Chapter) [IVXLC\d]+)")
_PRESS = "abc"  # a text of the Brown corpus' press is several articles: nothing that should hold together


class Document(NamedTuple):
    domain: str
    language: str
    work: str
    name: str
    text: str


def good(data: Path) -> list[Document]:
    """Chapters, essays and manual pages, short ones too, in one order; data: folder with books, docs and brown."""
    return [*_books(data), *_brown(data / "brown/brown.zip"), *_manuals(data / "docs")]


def is_long(document: Document) -> bool:
    return len(document.text.encode()) >= MIN_BYTES


def bad(data: Path) -> list[Document]:
    """Link lists, tables of numbers and boilerplate, of real material; data: the folder with web, licences, ..."""
    return [*_of_pages(data / "web"), *_tables(data), *_notices(data / "licences")]


def part(name: str, parts: int) -> int:
    """Pseudo-random part of a document or work, by its name alone."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) % parts


def decoded(raw: bytes) -> str:
    for charset in ("utf-8", "gb18030", "cp1252"):
        try:
            return raw.decode(charset).replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1").replace("\r\n", "\n")


def _books(data: Path) -> Iterator[Document]:
    for language in ("zh", "en"):
        for path in sorted((data / f"books_{language}").glob("*.txt")):
            if path.stem in ("dvldc10", "nwsnw10"):  # second editions of other files
                continue
            text = decoded(path.read_bytes())
            start, end = re.search(r"\*\*\* ?START OF.*\n", text), re.search(r"\*\*\* ?END OF", text)
            text = text[start.end() if start else 0 : end.start() if end else None]
            for number, chapter in enumerate(_CHAPTER.split(text)):
                yield Document(f"books_{language}", language, path.stem, f"{path.stem} {number}", chapter.strip())


def _brown(path: Path) -> Iterator[Document]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            match = re.fullmatch(r"brown/(c[a-r]\d\d)", name)
            if match is None or match[1][1] in _PRESS:
                continue
            paragraphs = archive.read(name).decode("latin-1").split("\n\n\n")
            plain = (" ".join(word.rsplit("/", 1)[0] for word in paragraph.split()) for paragraph in paragraphs)
            joined = (re.sub(r" ([.,;:?!)'])", r"\1", p).replace("`` ", '"').replace(" ''", '"') for p in plain if p)
            yield Document("essays_en", "en", match[1], match[1], "\n\n".join(joined))


def _manuals(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.glob("*.tar.gz")):
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.name.endswith(".md") else None
                if stream is not None:
                    language = "en" if member.name.endswith("_origin.md") else "zh"
                    work, text = path.name.split("-")[0], stream.read().decode("utf-8", "replace")
                    yield Document(f"manuals_{language}", language, work, f"{path.stem}/{member.name}", text)


def _of_pages(web: Path) -> Iterator[Document]:
    """Documents from the pages of a host: all links as a list; all menus, headers and footers."""
    links: dict[str, list[str]] = {}
    chrome: dict[str, list[str]] = {}
    for path in sorted(web.glob("CC-MAIN-*/*.warc.gz")):
        with path.open("rb") as raw:
            for record in ArchiveIterator(raw, record_types=WarcRecordType.response):
                group = f"{path.parent.name}-{path.name}-{part(record.headers.get('WARC-Target-URI') or '', 8)}"
                try:
                    page = lxml.html.fromstring(record.reader.read())
                except (ValueError, lxml.etree.LxmlError):
                    continue
                for anchor in page.iter("a"):
                    words = " ".join(anchor.text_content().split())
                    if words and anchor.get("href"):
                        links.setdefault(group, []).append(f"{words} {anchor.get('href')}")
                for part_of_page in page.xpath("//nav|//header|//footer|//*[contains(@class,'menu')]"):
                    lines = (" ".join(line.split()) for line in part_of_page.text_content().split("\n"))
                    chrome.setdefault(group, []).extend(line for line in lines if line)
    for domain, groups in (("link lists", links), ("boilerplate", chrome)):
        for group, lines in groups.items():
            yield from _cut(domain, f"{domain} {group}", "\n".join(lines))


def _tables(data: Path) -> Iterator[Document]:
    """CSV files of figures and checksums: of this data, and those that numpy and scikit-learn ship."""
    paths = [data / "FILES.csv", data / "SHA256SUMS", *sorted((data / "web").glob("*.csv"))]
    for package in ("numpy", "sklearn"):
        home = Path(sys.modules[package].__file__ if package in sys.modules else __import__(package).__file__).parent
        paths += sorted(home.rglob("*.csv")) + sorted(home.rglob("*.csv.gz"))
    for path in paths:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = decoded(raw)
        yield from _cut("tables", f"tables {path.name}", text)
        if text.count(",") > 100:  # the same as a page shows it
            rows = csv.reader(io.StringIO(text))
            yield from _cut("tables", f"tables {path.name} |", "\n".join(" | ".join(row) for row in rows))


def _notices(folder: Path) -> Iterator[Document]:
    """Third-party notices: licences one after the other, as products ship them."""
    licences = [decoded(path.read_bytes()) for path in sorted(folder.glob("*.txt"))]
    for number in range(24):
        chosen = [text for at, text in enumerate(licences) if part(f"{number} {at}", 3) == 0]
        yield from _cut("boilerplate", f"notices {number}", "\n\n".join(text[:4000] for text in chosen))


def _cut(domain: str, name: str, text: str, size: int = 40_000, most: int = 3) -> Iterator[Document]:
    """The first few pieces of `size` characters."""
    for number in range(most):
        piece = text[number * size : (number + 1) * size]
        if len(piece.encode()) >= MIN_BYTES:
            language = "zh" if sum("一" <= c <= "鿿" for c in piece) > len(piece) / 10 else "en"
            yield Document(domain, language, name, f"{name} {number}", piece)
