"""Plain ARC: records behind one whose length is wrong, and nothing twice."""

from collections import Counter
from io import BytesIO

import pytest

from ilm_ray.data.web.format.archive import read_records
from ilm_ray.data.web.format.warc import read_captures

HEAD = b"1 0 InternetArchive\nURL IP-address Archive-date Content-type Archive-length\n"


def page(name: str) -> bytes:
    body = f"<!doctype html><html><body><p>{name} {'word ' * 50}</p></body></html>".encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body


def record(url: str, block: bytes, length: int | str | None = None) -> bytes:
    told = len(block) if length is None else length
    return f"{url} 1.2.3.4 20240102030405 text/html {told}\n".encode() + block + b"\n"


def archive(length: int | str | None) -> bytes:
    parts = [record("filedesc://x.arc", HEAD)]
    parts += [record(f"http://{name}.example/", page(name), length if name == "b" else None) for name in "abcd"]
    return b"".join(parts)


@pytest.mark.parametrize("length", [None, 0, 17, len(page("b")) - 1, len(page("b")) + 100, 10**9, -1, "abc"])
def test_all_pages_are_read_whatever_one_length_says(length: int | str | None) -> None:
    data, counts = archive(length), Counter[str]()
    captures = list(read_captures(BytesIO(data), 1 << 20, counts))
    assert [(c.url, c.date, c.body) for c in captures] == [
        (f"http://{name}.example/", "2024-01-02T03:04:05Z", page(name).partition(b"\r\n\r\n")[2] + tail)
        for name in "abcd"
        for tail in ([b"\n"] if name == "b" and c_has_tail(length) else [b""])
    ]
    records = list(read_records(BytesIO(data), Counter()))
    assert [data[r.offset :].partition(b" ")[0].decode() for r in records] == [r.url for r in records]


def c_has_tail(length: int | str | None) -> bool:
    """Where the length is wrong, nothing says that the last line break is not the page's."""
    return length not in (None, len(page("b")))


def test_a_cut_file_is_read_as_far_as_it_goes() -> None:
    data, counts = archive(None)[:-60], Counter[str]()
    captures = list(read_captures(BytesIO(data), 1 << 20, counts))
    assert [c.url for c in captures] == [f"http://{name}.example/" for name in "abcd"] and counts["truncated"] == 1
