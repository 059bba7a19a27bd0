"""Puts the pages into WARC files, together with the odd records that a real crawl holds.

Two records are broken on purpose: one member in the middle of a file has corrupted bytes, so that a reader must go on
with the next one, and another file ends inside its last member.
"""

import random
from dataclasses import dataclass

from demo import warc
from demo.pages import DUMPS, NEW, OLD, Page, all_pages

CORRUPT_FILE = f"{OLD}/part-00001.warc.gz"
TRUNCATED_FILE = f"{NEW}/part-00001.warc.gz"
_DAY = {OLD: "2024-03-05", NEW: "2024-08-12"}
_HTTP_DAY = {OLD: "Tue, 05 Mar 2024", NEW: "Mon, 12 Aug 2024"}
_PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(0, 200, 3))


@dataclass(frozen=True)
class Truth:
    """What one record really is."""

    url: str
    dump: str
    file: str
    kind: str
    group: str


def _times(dump: str, number: int) -> tuple[str, str]:
    """The WARC date and the HTTP date of the record with this number."""
    clock = f"{6 + number // 60:02d}:{number % 60:02d}:{number * 7 % 60:02d}"
    return f"{_DAY[dump]}T{clock}Z", f"{_HTTP_DAY[dump]} {clock} GMT"


def _response(url: str, dump: str, number: int, body: bytes, content_type: str) -> bytes:
    stamp, http_stamp = _times(dump, number)
    http = warc.http_response(body, content_type, http_stamp)
    return warc.member(warc.record_bytes(warc.response(url, stamp, http, body)))


def _odd_records(dump: str, part: int) -> list[tuple[bytes, str, str]]:
    """Records that are not HTML pages, as (member, url, kind); kind is empty for those that are no responses."""
    stamp, _ = _times(dump, 300)
    host = f"https://www.odd-{part}.example"
    return [
        (warc.member(warc.record_bytes(warc.request(f"{host}/asked.html", stamp))), "", ""),
        (warc.member(warc.record_bytes(warc.revisit(f"{host}/same.html", stamp))), "", ""),
        (
            _response(
                f"{host}/data.json", dump, 301, b'{"towns": ["Amberford", "Coldham"], "count": 2}', "application/json"
            ),
            f"{host}/data.json",
            "non_html",
        ),
        (_response(f"{host}/dot.png", dump, 302, _PNG, "image/png"), f"{host}/dot.png", "non_html"),
        (_response(f"{host}/empty.html", dump, 303, b"", "text/html; charset=utf-8"), f"{host}/empty.html", "empty"),
    ]


def _file(name: str, dump: str, part: int, pages: list[Page], spare: Page) -> tuple[bytes, list[Truth]]:
    """One WARC file and the truth about its responses."""
    members = [warc.member(warc.record_bytes(warc.warcinfo(name.rpartition("/")[2], _times(dump, 0)[0])))]
    truths: list[Truth] = []
    odd = _odd_records(dump, part)
    for number, page in enumerate(pages):
        members.append(_response(page.url, dump, number, page.body, page.content_type))
        truths.append(Truth(page.url, dump, name, page.kind, page.group))
        if number % 12 == 5 and odd:
            data, url, kind = odd.pop(0)
            members.append(data)
            if kind:
                truths.append(Truth(url, dump, name, kind, ""))
    extra = _response(spare.url, dump, 310, spare.body, spare.content_type)
    if name == CORRUPT_FILE:
        members.insert(len(members) // 2, warc.corrupt(extra))
        truths.append(Truth(spare.url, dump, name, "broken", ""))
    if name == TRUNCATED_FILE:
        members.append(extra[: len(extra) // 2])
        truths.append(Truth(spare.url, dump, name, "broken", ""))
    return b"".join(members), truths


def crawl(seed: int) -> tuple[dict[str, bytes], list[Truth]]:
    """All WARC files by their path below `web/`, and the truth about them."""
    pages = all_pages(seed)
    spares = [p for p in all_pages(seed + 1) if p.kind == "article_en"]
    rng = random.Random(seed + 2)
    files: dict[str, bytes] = {}
    truths: list[Truth] = []
    for dump in DUMPS:
        here = [p for p in pages if p.dump == dump]
        for part in range(2):
            name = f"{dump}/part-{part:05d}.warc.gz"
            files[name], more = _file(name, dump, part, here[part::2], rng.choice(spares))
            truths.extend(more)
    return files, truths
