"""One archive of all that has ever stopped an extraction: each case ends under its rule, the pages around it do not."""

import functools
import gzip
import resource
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from demo import warc as writer
from ilm_ray.config.data import TextConfig
from ilm_ray.data.documents.sources import find_sources
from ilm_ray.data.web.format import documents as format_module
from ilm_ray.data.web.format.documents import format_documents
from ilm_ray.data.web.format.extract import Extractor
from tests.data.web.test_warc import HTML, STAMP

WORDS = "The miller opens the gate every morning and lets the water run over the wheel of the old mill. "
CHINESE = "春天来了，山谷里的桃花开得很好，人们在河边散步，孩子们放着风筝，老人坐在树下喝茶。"
CPU_S, MEMORY, CAP = 2.0, 400 << 20, 8 << 20
PARENT_MB = 200  # more than before, while it reads: a few times the cap


def html(inner: str) -> str:
    return f"<html><head><title>x</title></head><body><article>{inner}</article></body></html>"


def good(number: int) -> bytes:
    return html(f"<h1>Page {number}</h1>" + "".join(f"<p>Part {n}. {WORDS * 3}</p>" for n in range(4))).encode()


def zeros_packed(size: int) -> bytes:
    """A gzip stream that inflates to `size` zeros, about a thousandth as long."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def capture(name: str, body: bytes, header: str = "", kind: str = HTML) -> bytes:
    http = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{header}\r\n".encode() + body
    return writer.record_bytes(writer.response(f"https://poison.test/{name}", STAMP, http, body))


def rows_of_table(rows: int) -> str:
    return "<table>" + "".join(f"<tr><td>{n}</td><td>{WORDS}</td></tr>" for n in range(rows)) + "</table>"


@functools.cache
def cases() -> dict[str, tuple[bytes, str, str, set[str]]]:
    """name: body, further HTTP header, content type, rules that may end it ("kept": its text comes out)."""
    return {
        "table": (html(rows_of_table(60_000)).encode(), "", HTML, {"extract_timeout", "extract_memory"}),
        "nested": (html("<div>" * 3000 + WORDS * 10 + "</div>" * 3000).encode(), "", HTML, {"kept", "no_text"}),
        "long-line": (html("<p>" + "word " * 10_000_000).encode(), "", HTML, {"max_html_bytes"}),
        "surrogates": (
            html(f"<p>{WORDS * 5}\ud800 &#xD800; \udfff</p>").encode("utf-8", "surrogatepass"),
            "",
            HTML,
            {"kept"},
        ),
        "wrong-charset": (html(f"<p>{CHINESE * 8}</p>").encode("gbk"), "", "text/html; charset=utf-8", {"kept"}),
        "control": (html(f"<p>\x00\x01{WORDS * 5}\x07\x1f\x7f\x85\ufffe</p>").encode(), "", HTML, {"kept"}),
        "bomb": (zeros_packed(1 << 30), "Content-Encoding: gzip\r\n", HTML, {"max_html_bytes"}),
        "nested-bomb": (
            gzip.compress(zeros_packed(1 << 28)),
            "Content-Encoding: gzip, gzip\r\n",
            HTML,
            {"max_html_bytes"},
        ),
        "no-html": (bytes(range(256)) * 400, "", HTML, {"no_text", "min_chars", "language"}),
    }


@pytest.fixture
def poison(tmp_path: Path) -> Path:
    """A good page before, between and behind the cases; two of the members hold several records each."""
    records = [capture("good/0", good(0))]
    for number, (name, (body, header, kind, _)) in enumerate(cases().items(), 1):
        records += [capture(name, body, header, kind), capture(f"good/{number}", good(number))]
    members = [writer.member(b"".join(records[:2])), *map(writer.member, records[2:-2])]
    members.append(writer.member(b"".join(records[-2:])))
    path = tmp_path / "poison.warc.gz"
    path.write_bytes(b"".join(members))
    return path


class Watch:
    """The most memory, in bytes, that this process's children have while the block runs."""

    def __enter__(self) -> "Watch":
        self.most, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.02):
            for child in me.children():
                try:
                    self.most = max(self.most, child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue


def small_limits(*arguments: object) -> Extractor:
    return Extractor(*arguments, memory_bytes=MEMORY)  # type: ignore[arg-type]


@pytest.mark.process
def test_every_case_is_counted_and_its_neighbours_are_whole(poison: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_module, "Extractor", small_limits)
    config = TextConfig(languages=["en", "zh"], max_html_bytes=CAP, extract_timeout_s=CPU_S)
    (source,) = find_sources(str(poison))
    counts: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Watch() as watch:
        rows = {row.url.removeprefix("https://poison.test/"): row for row in format_documents(source, config, counts)}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < PARENT_MB * 1024
    assert watch.most < MEMORY + (100 << 20)
    for name, (*_, rules) in cases().items():
        assert (rows[name].drop_rule or "kept") in rules, (name, rows[name].drop_rule)
    for number in range(len(cases()) + 1):
        row = rows[f"good/{number}"]
        assert row.drop_rule is None and row.text.count(WORDS.strip()) == 12, number
    assert CHINESE in rows["wrong-charset"].text and rows["wrong-charset"].charset == "gb18030"
    assert WORDS.strip() in rows["surrogates"].text and WORDS.strip() in rows["control"].text
    assert counts == {"response": 2 * len(cases()) + 1}


@pytest.mark.process
def test_outcomes_are_the_same_again_and_out_of_order(poison: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No case changes what becomes of another: alone, each ends as it did in company."""
    monkeypatch.setattr(format_module, "Extractor", small_limits)
    config = TextConfig(languages=["en", "zh"], max_html_bytes=CAP, extract_timeout_s=CPU_S)

    def outcomes(path: Path) -> Iterator[tuple[str, str, str]]:
        (source,) = find_sources(str(path))
        for row in format_documents(source, config, Counter()):
            yield row.url, row.drop_rule or "kept", row.text

    together = list(outcomes(poison))
    alone = []
    for name, (body, header, kind, _) in cases().items():
        path = poison.with_name(f"{name}.warc")
        path.write_bytes(capture(name, body, header, kind))
        alone += list(outcomes(path))
    assert sorted(alone) == sorted(row for row in together if "/good/" not in row[0])
