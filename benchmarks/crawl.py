"""A larger crawl out of a small one: real pages and variants of them, as WARC files in the dumps of the originals.

    python benchmarks/crawl.py FOLDER [--captures 10000] [--files 18] [--seed 0] [--data ../shared/data/web]

A variant keeps all markup and has half of its words replaced by other words of the same page, so that size, language
and charset stay and no two variants are near-duplicates. One in ten captures is planted: an exact or a near copy of a
variant, under its address in another dump. The bytes of all files depend on the arguments alone.
"""

import argparse
import gzip
import hashlib
import json
import random
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "web"
VARIANT_SHARE = 0.5  # of the words replaced: a 5-gram survives with probability 1/32
NEAR_SHARE = 0.01  # Jaccard similarity of 5-grams about 0.9
PLANTED = 0.1  # of the captures that are added, half of them exact
MIN_WORDS = 100  # of a page that gets variants: those of a shorter one would be copies of each other
# Words of text nodes, as bytes: everything else (tags, scripts, comments, entities) is matched too, and kept.
_PIECES = re.compile(
    rb"<(script|style|noscript|textarea)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>|&[#\w]+;|([A-Za-z\x80-\xff]{2,})",
    re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True)
class Page:
    """A real capture. `content_type` is the HTTP header's."""

    url: str
    date: str
    dump: str
    content_type: str | None
    body: bytes


@dataclass(frozen=True)
class Planned:
    """A capture to write: page `page`, varied by seed `variant`, then edited by seed `edit` (None: not)."""

    page: int
    url: str
    date: str
    dump: str
    variant: int | None = None
    edit: int | None = None


def read_pages(folder: Path) -> list[Page]:
    """All HTML captures of `folder`/<dump>/*.warc.gz, in the order of the files."""
    pages = []
    for path in sorted(folder.glob("CC-MAIN-*/*.warc.gz")):
        with path.open("rb") as stream:
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
                header = dict(record.http_headers.items()).get("Content-Type")
                url, date = record.headers["WARC-Target-URI"], record.headers["WARC-Date"]
                pages.append(Page(url, date, path.parent.name, header, record.reader.read()))
    return pages


def pieces(body: bytes) -> tuple[list[bytes], list[int]]:
    """(pieces that joined are `body`, positions among them of the words of its text nodes)."""
    parts, words, end = list[bytes](), list[int](), 0
    for match in _PIECES.finditer(body):
        if match[2] is not None:
            parts.append(body[end : match.start()])
            words.append(len(parts))
            parts.append(match[2])
            end = match.end()
    parts.append(body[end:])
    return parts, words


def vary(body: bytes, share: float, seed: int) -> bytes:
    """`body` with `share` of its words replaced by words of its own, drawn as often as they occur."""
    rng = random.Random(seed)
    parts, words = pieces(body)
    drawn = [(place, parts[rng.choice(words)]) for place in words if rng.random() < share]
    for place, word in drawn:
        parts[place] = word
    return b"".join(parts)


def plan(pages: list[Page], captures: int, seed: int) -> list[Planned]:
    """The originals, then variants and planted copies up to `captures`; (url, date) is unique among them.

    Raises ValueError where no page is long enough to be varied.
    """
    rng = random.Random(seed)
    dumps = sorted({page.dump for page in pages})
    starts = {dump: min(page.date for page in pages if page.dump == dump) for dump in dumps}
    planned = [Planned(i, p.url, p.date, p.dump) for i, p in enumerate(pages)]
    first_of = {p.body: i for i, p in reversed(list(enumerate(pages)))}  # a page counts once however often captured
    long_enough = [i for i in sorted(first_of.values()) if len(pieces(pages[i].body)[1]) >= MIN_WORDS]
    if not long_enough:
        raise ValueError("no page has words enough to be varied")
    rng.shuffle(long_enough)
    variants = list[Planned]()
    for number in range(captures - len(planned)):
        if variants and rng.random() < PLANTED:
            base = rng.choice(variants)
            dump = rng.choice([d for d in dumps if d != base.dump] or dumps)
            edit = rng.getrandbits(32) if rng.random() < 0.5 else None
            planned.append(replace(base, dump=dump, date=_later(starts[dump], number), edit=edit))
        else:
            page = long_enough[len(variants) % len(long_enough)]
            dump = rng.choice(dumps)
            mark = "&" if "?" in pages[page].url else "?"
            url = f"{pages[page].url}{mark}variant={number}"
            variants.append(Planned(page, url, _later(starts[dump], number), dump, rng.getrandbits(32)))
            planned.append(variants[-1])
    assert len({(p.url, p.date) for p in planned}) == len(planned)
    return planned


def generate(folder: Path, web: Path = DATA, captures: int = 10_000, files: int = 18, seed: int = 0) -> None:
    """Write `files` WARC files into the dumps' folders, and of the originals `originals.jsonl`: url, date, sha1.

    Two processes; about a minute for 10,000 captures.
    """
    pages = read_pages(web)
    planned = plan(pages, captures, seed)
    targets: dict[Path, list[Planned]] = {}
    dumps = sorted({p.dump for p in planned})
    for dump in dumps:
        mine = [p for p in planned if p.dump == dump]
        random.Random(seed).shuffle(mine)
        count = max(1, files // len(dumps))
        for part in range(count):
            targets[folder / dump / f"part-{part:05d}.warc.gz"] = mine[part::count]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(partial(_write_file, web), targets.keys(), targets.values()))
    with (folder / "originals.jsonl").open("w", encoding="utf-8") as out:
        for page in pages:
            sha1 = hashlib.sha1(page.body).hexdigest()
            out.write(json.dumps({"url": page.url, "date": page.date, "payload_sha1": sha1}) + "\n")


def body_of(pages: list[Page], planned: Planned) -> bytes:
    """The bytes of a planned capture."""
    body = pages[planned.page].body
    if planned.variant is not None:
        body = vary(body, VARIANT_SHARE, planned.variant)
    return body if planned.edit is None else vary(body, NEAR_SHARE, planned.edit)


def _write_file(web: Path, path: Path, planned: list[Planned]) -> None:
    pages = read_pages(web)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        out.writelines(gzip.compress(record, 6, mtime=0) for record in _records(pages, planned))


def _records(pages: list[Page], planned: list[Planned]) -> Iterator[bytes]:
    for capture in planned:
        body, content_type = body_of(pages, capture), pages[capture.page].content_type
        http = b"HTTP/1.1 200 OK\r\n"
        http += f"Content-Type: {content_type}\r\n".encode() if content_type else b""
        http += f"Content-Length: {len(body)}\r\n\r\n".encode()
        head = (
            "WARC/1.0\r\nWARC-Type: response\r\n"
            f"WARC-Record-ID: <urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, capture.url + capture.date)}>\r\n"
            f"WARC-Date: {capture.date}\r\nWARC-Target-URI: {capture.url}\r\n"
            "WARC-Identified-Payload-Type: text/html\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http) + len(body)}\r\n\r\n"
        )
        yield head.encode() + http + body + b"\r\n\r\n"


def _later(start: str, seconds: int) -> str:
    """`start` (WARC-Date) and so many seconds, a day on: no original's date."""
    moment = datetime.fromisoformat(start) + timedelta(days=20, seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--captures", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    generate(arguments.folder, arguments.data, arguments.captures, arguments.files, arguments.seed)


if __name__ == "__main__":
    main()
