"""WARC reading: whole, truncated and malformed files; and the frozen order of the inputs."""

import gzip
import sys
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest

from ilm_ray.demo import warc as writer
from ilm_ray.errors import UserError
from ilm_ray.text.inputs import fingerprint, looks_like_warc
from ilm_ray.text.sources import find_sources
from ilm_ray.text.warc import Capture, read_captures

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
    found = find_sources(str(tmp_path / "*" / "*.warc"))
    assert [s.index for s in found] == list(range(6))
    newest = [s for s in found if s.dump == "CC-MAIN-2024-33"]
    older = [s for s in found if s.dump != "CC-MAIN-2024-33"]
    assert max(s.document_id(999_999) for s in newest) < min(s.document_id(0) for s in older)
    ids = [s.document_id(row) for s in found for row in (0, 1, 2**28 - 1)]
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
    found = find_sources(str(tmp_path / "**" / "*.warc")) + find_sources(str(tmp_path / "*/of/*/*/*"))
    assert [s.dump for s in found] == ["CC-MAIN-2023-50", "CC-MAIN-2024-10", "pages", "CC-MAIN-2024-18"]
    old, new = found[:2]
    assert new.document_id(0) < old.document_id(0)


def test_storage_that_cannot_be_used_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"s4://x/\* cannot be listed.*s4") as caught:
        find_sources("s4://x/*")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where it is not installed
    with pytest.raises(UserError, match="cannot be listed"):
        find_sources("s3://bucket/*.warc.gz")


def test_what_is_no_warc_is_refused_and_what_is_cut_is_not(tmp_path: Path) -> None:
    for name, data, fine in (
        ("plain.warc", response(1, page(1)), True),
        ("cut.warc.gz", gzip.compress(response(1, page(1)))[:200], True),
        ("text.warc", b"hello, this is no archive", False),
        ("other.warc.gz", gzip.compress(b"hello"), False),
        ("bad.warc.gz", b"\x1f\x8b\x08" + b"\xff" * 200, False),
    ):
        (tmp_path / name).write_bytes(data)
        assert looks_like_warc(data) == fine
        (source,) = find_sources(str(tmp_path / name))
        if fine:
            assert fingerprint(source)
        else:
            with pytest.raises(UserError, match="no WARC"):
                fingerprint(source)
    with pytest.raises(UserError, match="matches no file"):
        find_sources(str(tmp_path / "*.nothing"))


def test_the_malformed_collection_is_survived(shared_data: Path) -> None:
    total: Counter[str] = Counter()
    for path in sorted((shared_data / "web" / "malformed").iterdir()):
        if path.suffix != ".csv":
            with path.open("rb") as stream:
                for capture in read_captures(stream, 1 << 22, total):
                    assert capture.url and capture.body
    assert total["response"] >= 40 and total["truncated"] >= 3
