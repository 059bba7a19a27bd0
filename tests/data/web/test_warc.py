"""WARC reading: whole, truncated and malformed files; and the frozen order of the inputs."""

import contextlib
import gzip
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import brotli
import fastwarc.stream_io
import fastwarc.warc
import pytest
import warcio.archiveiterator
import zstandard
from warcio.exceptions import ArchiveLoadFailed

from demo import warc as writer
from ilm_ray.base.errors import UserError
from ilm_ray.data.documents.sources import find_sources
from ilm_ray.data.web.format.archive import looks_like_archive, read_records
from ilm_ray.data.web.format.inputs import fingerprint
from ilm_ray.data.web.format.warc import Capture, read_captures

STAMP = "2024-03-05T06:00:00Z"
HTML = "text/html; charset=utf-8"


def response(number: int, body: bytes, content_type: str = HTML) -> bytes:
    http = writer.http_response(body, content_type, "Tue, 05 Mar 2024 06:00:00 GMT")
    return writer.record_bytes(writer.response(f"https://a.test/{number}", STAMP, http, body))


def page(number: int) -> bytes:
    return b"<html><body><p>" + b"%d some words " % number * 400 + b"</p></body></html>"


def read(data: bytes, cap: int = 1 << 20) -> tuple[list[Capture], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(read_captures(BytesIO(data), cap, counts)), counts


def numbers(captures: list[Capture]) -> list[int]:
    return [int(c.url.rpartition("/")[2]) for c in captures]


def test_only_html_responses_come_out_and_everything_is_counted() -> None:
    members = [
        writer.record_bytes(writer.request("https://a.test/0", STAMP)),
        response(1, page(1)),
        writer.record_bytes(writer.revisit("https://a.test/2", STAMP)),
        response(3, b"{}", "application/json"),
        response(4, b""),
        response(5, page(5)),
    ]
    captures, counts = read(b"".join(map(writer.member, members)))
    assert numbers(captures) == [1, 5]
    assert captures[0].body == page(1)
    assert counts == {"request": 1, "revisit": 1, "response": 4, "non_html": 1, "empty": 1}


@pytest.mark.parametrize("packed", [True, False])
def test_a_truncated_file_is_read_as_far_as_it_goes(packed: bool) -> None:
    records = [response(n, page(n)) for n in range(4)]
    whole = [writer.member(r) if packed else r for r in records]
    for part in (0.06, 0.2, 0.5, 0.7, 0.9):
        data = b"".join(whole[:3]) + whole[3][: int(part * len(whole[3]))]
        captures, counts = read(data)
        assert numbers(captures)[:3] == [0, 1, 2]
        assert [c.body for c in captures[:3]] == [page(n) for n in range(3)]
        assert counts["truncated"] == 1, part


@pytest.mark.parametrize("broken", [0, 2, 5])
def test_reading_goes_on_behind_a_malformed_member(broken: int) -> None:
    members = [writer.member(response(n, page(n))) for n in range(6)]
    members[broken] = writer.corrupt(members[broken])
    captures, counts = read(b"".join(members))
    whole = [c for c in captures if c.body == page(int(c.url.rpartition("/")[2]))]
    assert numbers(whole) == [n for n in range(6) if n != broken]
    assert counts["malformed"] + counts["truncated"] >= 1


def test_a_body_over_the_cap_is_cut_and_its_size_known() -> None:
    captures, _ = read(writer.member(response(1, page(1))) + writer.member(response(2, page(2))), cap=100)
    assert [(len(c.body), c.size) for c in captures] == [(100, len(page(1))), (100, len(page(2)))]


def test_dumps_are_ranked_newest_first_and_ids_follow(tmp_path: Path) -> None:
    for dump in ("CC-MAIN-2023-50", "CC-MAIN-2024-10", "CC-MAIN-2024-33"):
        (tmp_path / dump).mkdir()
        for name in ("b", "a"):
            (tmp_path / dump / f"{name}.warc").write_bytes(response(1, page(1)))
    sources = find_sources(str(tmp_path / "*" / "*.warc"))
    assert [s.index for s in sources] == list(range(6))
    newest = [s for s in sources if s.dump == "CC-MAIN-2024-33"]
    older = [s for s in sources if s.dump != "CC-MAIN-2024-33"]
    assert max(s.document_id(999_999) for s in newest) < min(s.document_id(0) for s in older)
    ids = [s.document_id(row) for s in sources for row in (0, 1, 2**28 - 1)]
    assert len(set(ids)) == len(ids) and max(ids) < 2**64


def test_the_dump_is_the_crawl_even_of_the_official_layout(tmp_path: Path) -> None:
    for path in (
        "CC-MAIN-2023-50/segments/1700000000000.1/warc/a.warc",
        "CC-MAIN-2024-10/segments/1700000000000.2/warc/z.warc",
        "CC-MAIN-2024-10/of/CC-MAIN-2024-18/warc/CC-MAIN-2099-01",
        "own/pages/b.warc",
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(response(1, page(1)))
    sources = find_sources(str(tmp_path / "**" / "*.warc")) + find_sources(str(tmp_path / "*/of/*/*/*"))
    assert [s.dump for s in sources] == ["CC-MAIN-2023-50", "CC-MAIN-2024-10", "pages", "CC-MAIN-2024-18"]
    old, new = sources[:2]
    assert new.document_id(0) < old.document_id(0)


def test_storage_that_cannot_be_used_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"s4://x/\* cannot be listed.*s4") as caught:
        find_sources("s4://x/*")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where it is not installed
    with pytest.raises(UserError, match="cannot be listed"):
        find_sources("s3://bucket/*.warc.gz")


def test_what_is_no_archive_is_told_apart_from_what_is_cut(tmp_path: Path) -> None:
    for name, data, fine in (
        ("plain.warc", response(1, page(1)), True),
        ("cut.warc.gz", gzip.compress(response(1, page(1)))[:200], True),
        ("empty.warc", b"", True),
        ("text.warc", b"hello, this is no archive", False),
        ("other.warc.gz", gzip.compress(b"hello"), False),
        ("bad.warc.gz", b"\x1f\x8b\x08" + b"\xff" * 200, False),
    ):
        (tmp_path / name).write_bytes(data)
        assert looks_like_archive(data) == fine
        (source,) = find_sources(str(tmp_path / name))
        assert fingerprint(source)[1] == fine
        captures, counts = read(data)
        if not fine:
            assert not captures
            assert counts == {"not_an_archive": 1, "skipped_bytes_not_an_archive": len(data)}
    with pytest.raises(UserError, match="matches no file"):
        find_sources(str(tmp_path / "*.nothing"))


def in_zip(files: dict[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return buffer.getvalue()


def lz4_frame(data: bytes) -> bytes:
    with BytesIO() as out:
        packer = fastwarc.stream_io.Lz4Writer(out)
        packer.write(data)
        packer.close()
        return out.getvalue()


@pytest.mark.parametrize(
    "pack",
    [
        lambda records: b"".join(records),
        lambda records: b"".join(map(writer.member, records)),
        lambda records: writer.member(b"".join(records)),  # all records in one member
        lambda records: b"".join(map(zstandard.ZstdCompressor().compress, records)),
        lambda records: b"".join(map(lz4_frame, records)),
        lambda records: in_zip(
            {"b.warc.gz": writer.member(records[3]), "pages.jsonl": b"{}", "a.warc": b"".join(records[:3])}
        ),
    ],
    ids=["plain", "gzip", "one member", "zstd", "lz4", "wacz"],
)
def test_every_packing_gives_the_same_captures(pack: Callable[[list[bytes]], bytes]) -> None:
    captures, counts = read(pack([response(n, page(n)) for n in range(4)]))
    assert numbers(captures) == [0, 1, 2, 3]
    assert [c.body for c in captures] == [page(n) for n in range(4)]
    assert counts == {"response": 4}


def test_bytes_without_records_are_counted() -> None:
    members = [writer.member(response(n, page(n))) for n in range(4)]
    broken = writer.corrupt(members[1])
    junk = b"no gzip member " * 40
    captures, counts = read(members[0] + broken + members[2] + junk + members[3])
    assert {0, 2, 3} <= set(numbers(captures))
    assert counts["skipped_bytes_malformed"] in (len(junk), len(junk) + len(broken))
    records = [response(n, page(n)) for n in range(3)]
    captures, counts = read(records[0] + junk + b"\r\n" + records[1] + records[2])
    assert numbers(captures) == [0, 1, 2]
    assert len(junk) - 64 <= counts["skipped_bytes_malformed"] <= len(junk) + 64


@pytest.mark.parametrize("status", ["404 Not Found", "301 Moved Permanently", "304", "500 "])
def test_errors_and_redirects_are_no_documents(status: str) -> None:
    http = f"HTTP/1.1 {status}\r\nContent-Type: {HTML}\r\n\r\n".encode() + page(1)
    data = writer.record_bytes(writer.response("https://a.test/1", STAMP, http, page(1)))
    captures, counts = read(data + response(2, page(2)))
    assert numbers(captures) == [2]
    assert counts == {"response": 2, "http_error": 1}


def test_pages_saved_as_resources_are_captures() -> None:
    kinds = (("text/html", page(1)), ("image/png", b"png"), ("TEXT/HTML;charset=gbk", page(3)))
    records = [
        writer.Record("resource", f"https://a.test/{n}", STAMP, kind, body) for n, (kind, body) in enumerate(kinds, 1)
    ]
    captures, counts = read(b"".join(map(writer.record_bytes, records)))
    assert [(c.url, c.body, c.charset) for c in captures] == [
        ("https://a.test/1", page(1), None),
        ("https://a.test/3", page(3), "gbk"),
    ]
    assert counts == {"resource": 3, "non_html": 1}


def chunked(body: bytes) -> bytes:
    parts = [body[n : n + 700] for n in range(0, len(body), 700)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("header", "encode"),
    [
        ("Content-Encoding: gzip", gzip.compress),
        ("Content-Encoding: deflate", zlib.compress),
        ("Content-Encoding: deflate", lambda body: zlib.compress(body)[2:-4]),  # without its header, as many servers
        ("Content-Encoding: deflate", gzip.compress),
        ("Content-Encoding: deflate", bytes),
        ("Set-Cookie: " + "x" * 300_000, bytes),
        ("Content-Encoding: br", brotli.compress),
        ("Content-Encoding: zstd", zstandard.ZstdCompressor().compress),
        ("Transfer-Encoding: chunked", chunked),
        ("Content-Encoding: gzip\nTransfer-Encoding: chunked", lambda body: chunked(gzip.compress(body))),
        ("Content-Encoding: gzip, br", lambda body: brotli.compress(gzip.compress(body))),
        ("Content-Encoding: gzip", bytes),  # the archive holds it decoded
        ("Transfer-Encoding: chunked", bytes),
        ("Content-Encoding: identity, no-such-thing", bytes),
    ],
)
def test_http_encodings(header: str, encode: Callable[[bytes], bytes]) -> None:
    for line_end in ("\r\n", "\n"):
        head = f"HTTP/1.1 200 OK\nContent-Type: {HTML}\n{header}\n\n".replace("\n", line_end).encode()
        record = writer.record_bytes(writer.response("https://a.test/1", STAMP, head + encode(page(1)), page(1)))
        (capture,), counts = read(record)
        assert capture.body == page(1) and capture.charset == "utf-8"
        assert counts == {"response": 1}
        ((cut,), _) = read(record, cap=100)
        assert len(cut.body) == 100 and cut.size > 100


def identity(kind: str, url: str | None, record_id: str | None) -> tuple[str, str, str]:
    return kind, (url or "").strip("<> ").replace("%20", " "), record_id or ""


def peers(data: bytes) -> Iterator[tuple[tuple[str, str, str], int]]:
    """(identity, offset) of all records that fastwarc and that warcio read by their defaults, up to their errors."""
    with contextlib.suppress(OSError):
        for record in fastwarc.warc.ArchiveIterator(BytesIO(data)):
            headers = record.headers
            key = identity(str(record.record_type), headers.get("WARC-Target-URI"), headers.get("WARC-Record-ID"))
            yield key, record.stream_pos
    records = warcio.archiveiterator.ArchiveIterator(BytesIO(data))
    with contextlib.suppress(ArchiveLoadFailed, AttributeError):
        for record in records:
            header = record.rec_headers.get_header
            url = header("uri" if record.format == "arc" else "WARC-Target-URI")
            yield identity(record.rec_type or "unknown", url, header("WARC-Record-ID")), records.offset


@pytest.mark.parametrize("collection", ["malformed", "original"])
def test_whatever_fastwarc_or_warcio_reads_is_read(shared_data: Path, collection: str) -> None:
    """A peer's record is ours under the same type, URL and id, or, where it garbles the header, at the same offset."""
    total: Counter[str] = Counter()
    for path in sorted((shared_data / "web" / collection).rglob("*.*")):
        if path.suffix == ".csv":
            continue
        data = path.read_bytes()
        counts: Counter[str] = Counter()
        ours = list(read_records(BytesIO(data), counts))
        identities = Counter(identity(record.kind, record.url, record.record_id) for record in ours)
        places = [record.offset for record in ours]
        if path.suffix == ".wacz":
            with zipfile.ZipFile(path) as archive:
                data = archive.read("archive/data.warc.gz")
        theirs = list(peers(data))
        assert [their for their in theirs if their[0] not in identities and their[1] not in places] == [], path.name
        if not (data.startswith(b"\x1f\x8b") and len(set(places)) < len(places)):  # members of several records
            assert len(set(places)) == len(places), path.name
        skipped = sum(counts[name] for name in counts if name.startswith("skipped_bytes"))
        assert ours or skipped == len(data), path.name
        total["files"] += 1
        total["records"] += len(ours)
    assert total == {"malformed": {"files": 48, "records": 140}, "original": {"files": 28, "records": 2200}}[collection]


def test_the_collections_give_pages(shared_data: Path) -> None:
    for collection in ("malformed", "original"):
        total: Counter[str] = Counter()
        for path in sorted((shared_data / "web" / collection).rglob("*.*")):
            if path.suffix != ".csv":
                with path.open("rb") as stream:
                    for capture in read_captures(stream, 1 << 22, total):
                        assert capture.url and capture.body
        kinds = ("response", "request", "revisit", "resource", "other_record")
        print(collection, dict(total))
        assert sum(total[kind] for kind in kinds) == {"malformed": 140, "original": 2200}[collection]
