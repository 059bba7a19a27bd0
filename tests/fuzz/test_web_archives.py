"""Bytes of a crawl: archives, HTTP heads, encodings, charsets, pages. A bad record costs itself, nothing else."""

import gzip
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from demo import warc as writer
from ilm_ray.data.web.format.archive import looks_like_archive
from ilm_ray.data.web.format.charset import decode
from ilm_ray.data.web.format.child import Page, read_page
from ilm_ray.data.web.format.extract import Extractor
from ilm_ray.data.web.format.http import content_type, decode_body, parse_response
from ilm_ray.data.web.format.warc import read_captures
from tests.fuzz.limits import bounded, few
from tests.fuzz.made import damaged, texts

STAMP, HTML, CAP = "2024-03-05T06:00:00Z", "text/html; charset=utf-8", 10_000
BODY = b"<html><body><p>The miller opens the gate every morning.</p></body></html>"


def capture(number: int, head: str = "") -> bytes:
    http = f"HTTP/1.1 200 OK\r\nContent-Type: {HTML}\r\n{head}\r\n".encode() + BODY
    return writer.record_bytes(writer.response(f"https://a.test/{number}", STAMP, http, BODY))


def packed_zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def bomb(size: int) -> bytes:
    """A zstd frame that repeats one byte: four bytes of it become 128 KiB."""
    blocks = size >> 17
    head = [(1 << 17 << 3 | 1 << 1 | (n + 1 == blocks)).to_bytes(3, "little") for n in (0, blocks - 1)]
    return b"\x28\xb5\x2f\xfd\x00\x38" + (head[0] + b"a") * (blocks - 1) + head[1] + b"a"


RECORDS = [capture(0), capture(1, "Transfer-Encoding: chunked\r\n"), capture(2, "Content-Encoding: gzip\r\n")]
ARC = b"filedesc://x.arc 0.0.0.0 20240305060000 text/plain 9\n1 0 demo\n\n"
ARC += b"http://a.test/ 127.0.0.1 20240305060000 text/html %d\n%b\n" % (len(BODY), BODY)
GZIPPED = b"".join(map(writer.member, RECORDS))
FILES = [
    b"".join(RECORDS),
    GZIPPED,
    b"".join(map(zstandard.ZstdCompressor().compress, RECORDS)),
    ARC,
    gzip.compress(ARC, mtime=0),
    packed_zip({"archive/data.warc.gz": GZIPPED, "indexes/x.cdx": b"x"}),
]


@given(st.one_of(damaged(FILES), st.binary(max_size=400)))
@example(capture(0).replace(b"HTTP/1.1 200", b"HTTP/1.1 " + b"9" * 5000))
@example(FILES[-1][:60] + FILES[-1][61:])  # a zip whose offsets lead to before its beginning
@example(bomb(1 << 31))
@example(GZIPPED + bomb(1 << 31))
@few(30)
def test_any_bytes_are_an_archive_or_are_counted(data: bytes) -> None:
    counts: Counter[str] = Counter()
    with bounded():
        looks_like_archive(data[:65_536])
        pages = list(read_captures(io.BytesIO(data), CAP, counts))
    assert all(len(page.body) <= CAP and page.url for page in pages)
    assert len(pages) <= counts["response"] + counts["resource"]
    assert all(value >= 0 for value in counts.values())


@given(damaged(FILES[:2]))
@few(15)
def test_damage_of_one_file_is_not_the_next_records_loss(data: bytes) -> None:
    """Whole members behind whatever came before are found, where a blank line or a member's head begins them."""
    counts: Counter[str] = Counter()
    with bounded():
        pages = list(read_captures(io.BytesIO(data + b"\r\n\r\n" + GZIPPED), CAP, counts))
    if data.endswith(b"\r\n\r\n") or not data:
        assert pages[-1].url.startswith("https://a.test/")


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["Content-Type", "Content-Encoding", "Transfer-Encoding", "X"]),
        st.one_of(
            texts,
            st.sampled_from(["gzip", "deflate, br", "chunked", "zstd", "text/html; charset*0*=utf-8''%ff;charset*1=x"]),
            st.text("abcharset*='%;\" 01utf-8", max_size=40).map("text/html; charset".__add__),
        ),
    ),
    max_size=4,
)
STATUS = st.one_of(st.just("HTTP/1.1 200 OK"), texts.map("HTTP/1.1 ".__add__))


@given(STATUS, HEADERS, st.one_of(st.binary(max_size=60), damaged([gzip.compress(BODY), zlib.compress(BODY)])))
@example("HTTP/1.1 " + "9" * 5000, [], b"")
@example("HTTP/1.1 200", [("Content-Encoding", "zstd")], bomb(1 << 31))
@few(40)
def test_any_response_has_a_body_within_the_cap(status: str, headers: list[tuple[str, str]], body: bytes) -> None:
    head = "".join(f"{line}\r\n" for line in (status, *(f"{name}: {value}" for name, value in headers)))
    with bounded():
        response = parse_response(head.encode("utf-8", "replace") + b"\r\n" + body)
        assert response is not None
        assert len(decode_body(response, CAP)) <= CAP
        media, charset = content_type(response.headers.get("content-type", ""))
    assert media == media.lower() and charset != ""


@given(
    st.one_of(
        st.binary(max_size=300), damaged([BODY, "<p>春天来了</p>".encode("gbk"), BODY.decode().encode("utf-16")])
    ),
    texts,
)
@few(30)
def test_any_bytes_are_a_text_in_some_charset(body: bytes, label: str) -> None:
    with bounded():
        text, charset = decode(body, label)
        assert b"x".decode(charset, "replace") is not None  # a codec that there is
    assert len(text) <= len(body) and isinstance(text, str)


MARKUP = st.lists(
    st.one_of(
        st.sampled_from(["<p>", "</p>", "<div>", "</table>", "<table><tr><td>", "<!--", "-->", "<![CDATA[", "<?xml ?>",
                         "<script>", "</style>", "<meta charset=utf-16>", "&#xD800;", "&#99999999999;", "&amp",
                         "<a href=",
                         "<svg><math>", "<template>", "<p " * 50, "<b>" * 500, "\0", "<title>", "<base href='//['>"]),
        texts,
    ),
    max_size=12,
).map("".join)  # fmt: skip


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    with Extractor(5.0, prepass=True, languages=["en", "zh"], min_chars=20) as extractor:
        yield extractor


@pytest.mark.process
@given(st.lists(MARKUP, min_size=1, max_size=20))
@few(10)
def test_any_page_is_a_text_or_has_a_reason(extractor: Extractor, pages: list[str]) -> None:
    bodies = [page.encode("utf-8", "surrogatepass") for page in pages]
    results = list(extractor.extract_all((n, Page(body, None, n % 2 == 0)) for n, body in enumerate(bodies)))
    assert [n for n, _ in results] == list(range(len(pages)))
    for _, extracted in results:
        assert extracted is not None
        # A crash or a lost child would be a finding: these pages are small.
        assert extracted.failure in (None, "no_text", "prepass_empty", "prepass_language"), extracted.failure
        assert bool(extracted.text.strip()) == (extracted.failure is None)


@given(MARKUP)
@few(10)
def test_no_page_makes_the_parser_raise(page: str) -> None:
    """The child would count a raise as extract_crash; here it is seen."""
    with bounded():
        read_page(Page(page.encode("utf-8", "surrogatepass")), True, ["en"], 20)
