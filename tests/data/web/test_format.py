"""Format over text sources and with the pre-pass: what is kept, counted, lost."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import zstandard

from demo import warc as writer
from ilm_ray.config.data import TextConfig
from ilm_ray.data.documents.document import Document
from ilm_ray.data.documents.sources import Source, find_sources
from ilm_ray.data.web.format import documents as format_module
from ilm_ray.data.web.format import plain
from ilm_ray.data.web.format.documents import format_documents
from tests.data.web.test_charset_and_language import CHINESE, FRENCH, html
from tests.data.web.test_warc import response

ENGLISH = "The miller opens the gate every morning and lets the water run over the wheel. "
CONFIG = TextConfig(min_chars=50)


def book(path: Path, data: bytes) -> Source:
    path.write_bytes(data)
    return Source(3, 0, 0, "books", str(path), "books", "body")


def documents_of(source: Source, config: TextConfig = CONFIG) -> tuple[list[Document], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(format_documents(source, config, counts)), counts


LINES = [
    json.dumps({"body": ENGLISH * 3, "url": "https://arxiv.test/1", "date": "2024-01-02", "title": "Mills"}),
    json.dumps({"body": CHINESE}, ensure_ascii=False),
    '{"body": "broken',
    json.dumps({"text": "another field"}),
    json.dumps(["no object"]),
    "",
    json.dumps({"body": FRENCH * 3, "url": None}),
    json.dumps({"body": "short"}),
    json.dumps({"body": " "}),
    json.dumps({"body": ENGLISH * 2 + "\ud800"}),
    "[" * 100_000,
]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_a_document_a_row(tmp_path: Path, ending: str) -> None:
    data = "\ufeff".encode() + "\n".join(LINES).encode()
    half = data.index(b"broken")
    packed = {
        "jsonl": data,
        "jsonl.gz": gzip.compress(data[:half]) + gzip.compress(data[half:]),
        "jsonl.zst": zstandard.compress(data[:half]) + zstandard.compress(data[half:]),
    }[ending]
    source = book(tmp_path / f"a.{ending}", packed)
    rows, counts = documents_of(source)
    assert [(row.id - source.document_id(0), row.drop_rule, row.language) for row in rows] == [
        (0, None, "en"),
        (1, None, "zh"),
        (6, "language", "fr"),
        (7, "min_chars", "unknown"),
        (8, "no_text", "unknown"),
        (9, None, "en"),
    ]
    assert counts == {"document": 6, "malformed": 4}
    assert rows[0].text == "Mills\n\n" + ENGLISH * 3 and rows[1].text == CHINESE
    assert (rows[0].url, rows[0].date, rows[0].source) == ("https://arxiv.test/1", "2024-01-02", "books")
    assert [row.title for row in rows] == ["Mills", *[""] * 5]
    assert [row.line_num for row in rows] == [3, 1, 1, 1, 0, 1]
    assert rows[2].url == f"{source.path}#6"
    for row in rows:
        assert row.chars == len(row.text) and row.bytes == len(row.text.encode("utf-8", "replace"))


def test_a_document_a_file_in_any_charset(tmp_path: Path) -> None:
    for name, data in (("a.txt", CHINESE.encode("gbk")), ("b.txt", CHINESE.encode("utf-8-sig"))):
        source = book(tmp_path / name, data)
        (row,), counts = documents_of(source)
        assert (row.text, row.language, row.url) == (CHINESE, "zh", source.path)
        assert counts == {"document": 1}


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_packed_file_that_breaks_off(tmp_path: Path, ending: str) -> None:
    line = json.dumps({"body": ENGLISH * 2}).encode() + b"\n"
    pack = {"gz": gzip.compress, "zst": zstandard.compress}[ending]
    whole, rest = pack(line * 50), pack(b"".join(json.dumps({"body": str(n) * 50}).encode() for n in range(999)))
    rows, counts = documents_of(book(tmp_path / f"a.jsonl.{ending}", whole + rest[:-100]))
    assert len([row for row in rows if row.drop_rule is None]) == 50
    if ending == "gz":  # zstd frames end without a word at the file's end
        assert counts["truncated"] == 1


def test_what_is_too_long_is_removed_and_costs_no_neighbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plain, format_module):
        monkeypatch.setattr(module, "MAX_BYTES", 1000)
    line = json.dumps({"body": ENGLISH * 2}).encode() + b"\n"
    rows, _ = documents_of(book(tmp_path / "a.jsonl", line + b"x" * 12_345 + b"\n" + line + b"y" * 1000))
    assert [row.drop_rule for row in rows] == [None, "max_text_bytes", None]
    assert (rows[1].drop_value, rows[1].threshold) == (12_346, 1000)
    (row,), _ = documents_of(book(tmp_path / "a.txt", b"x" * 5000))
    assert (row.drop_rule, row.drop_value) == ("max_text_bytes", 5000)


def prepass_file(tmp_path: Path, copies: int) -> Source:
    """English pages, French ones, empty ones; and English pages that only show French beside their text's JSON."""
    json_only = (
        f'<script type="application/ld+json">{json.dumps({"@type": "Article", "articleBody": ENGLISH * 9})}</script>'
    )
    bodies = [
        html(ENGLISH * 9),
        html(FRENCH * 9),
        "<html><body><a href='/'>Home</a></body></html>",
        f"<html><head>{json_only}</head><body><a href='/'>Home</a></body></html>",
    ]
    records = [response(n, bodies[n % 4].encode()) for n in range(4 * copies)]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    (source,) = find_sources(str(tmp_path / "a.warc"))
    return source


@pytest.mark.process
def test_the_prepass_saves_work_and_tells_what_it_loses(tmp_path: Path) -> None:
    source = prepass_file(tmp_path, 64)
    plainly, _ = documents_of(source, CONFIG)
    rows, counts = documents_of(source, CONFIG.model_copy(update={"prepass": True}))
    assert [row.id for row in rows] == [row.id for row in plainly]
    for kind, (without, with_it) in enumerate(
        ((None, None), ("language", "prepass_language"), ("min_chars", "prepass_empty"), (None, "prepass_empty"))
    ):
        assert {row.drop_rule for row in plainly[kind::4]} <= {without, "no_text"}
        assert {row.drop_rule for row in rows[kind::4]} == {with_it}
    sampled = [row for row in rows if row.drop_rule is not None and format_module.in_sample(row.id, 32)]
    lost = [row for row in sampled if (row.id - source.document_id(0)) % 4 == 3]
    assert counts["prepass_checked"] == len(sampled) > 0
    assert counts["prepass_lost"] == len(lost) > 0


def test_the_sample_is_even() -> None:
    source = Source(0, 5, 7, "d", "x")
    taken = sum(format_module.in_sample(source.document_id(n), 32) for n in range(32_000))
    assert abs(taken - 1000) < 4 * 1000**0.5


def test_the_cap_holds_for_web_pages(tmp_path: Path) -> None:
    (tmp_path / "a.warc.gz").write_bytes(writer.member(response(0, html(ENGLISH * 200).encode())))
    (source,) = find_sources(str(tmp_path / "a.warc.gz"))
    (row,), _ = documents_of(source, CONFIG.model_copy(update={"max_html_bytes": 5000}))
    assert row.drop_rule == "max_html_bytes" and row.drop_value > row.threshold == 5000
    assert (row.text, row.bytes) == ("", 0)
