"""Files on disk, in S3 and behind HTTP; storages that stumble; globs with files that are no archives."""

import errno
import io
import random
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from demo import warc as writer
from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.config.data import TextConfig
from ilm_ray.data.documents.sources import ROW_BITS, Source, find_sources
from ilm_ray.data.web import pipeline
from ilm_ray.data.web.format import inputs
from ilm_ray.data.web.format.documents import format_documents
from ilm_ray.data.web.format.inputs import fingerprint, open_source
from ilm_ray.data.web.format.warc import read_captures
from tests.data.web.test_warc import page, response

ARCHIVE = b"".join(writer.member(response(n, page(n))) for n in range(20))
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def captured(source: Source) -> int:
    with open_source(source) as stream:
        return len(list(read_captures(stream, 1 << 20, Counter())))


def at(path: str) -> Source:
    return Source(0, 0, 0, "d", path)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="crawl")
    for name in ("a", "b"):
        client.put_object(Bucket="crawl", Key=f"CC-MAIN-2024-10/{name}.warc.gz", Body=ARCHIVE)
    fsspec.filesystem("s3").clear_instance_cache()
    yield "s3://crawl/CC-MAIN-2024-10"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.mark.long
def test_archives_in_s3(s3: str, tmp_path: Path) -> None:
    (tmp_path / "a.warc.gz").write_bytes(ARCHIVE)
    sources = find_sources(f"{s3}/*.warc.gz")
    assert [(source.dump, source.path) for source in sources] == [
        ("CC-MAIN-2024-10", f"{s3}/{name}.warc.gz") for name in ("a", "b")
    ]
    assert [captured(source) for source in sources] == [20, 20]
    assert fingerprint(sources[0]) == fingerprint(at(str(tmp_path / "a.warc.gz")))
    with pytest.raises(UserError, match=r"cannot read s3://crawl/none\.warc\.gz"):
        open_source(at("s3://crawl/none.warc.gz"))


class Ranges(SimpleHTTPRequestHandler):
    """Serves ranges, as storages do; one request in three breaks off."""

    requests = 0

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        wanted = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")
        first, last = int(wanted[0]), int(wanted[1] or len(data) - 1)
        part = data[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        type(self).requests += 1
        if type(self).requests % 3 == 0:
            self.wfile.write(part[: len(part) // 2])
            self.connection.close()
        else:
            self.wfile.write(part)

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


class NoRanges(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.mark.long
@pytest.mark.parametrize("handler", [Ranges, NoRanges])
def test_archives_behind_http(handler: type[SimpleHTTPRequestHandler], tmp_path: Path) -> None:
    (tmp_path / "CC-MAIN-2024-10").mkdir()
    # Longer than a block of the file system's cache, so that it cannot come in one request.
    large = writer.member(response(99, b"<html>" + random.Random(0).randbytes(7 << 20)))
    (tmp_path / "CC-MAIN-2024-10" / "a.warc.gz").write_bytes(large + ARCHIVE)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/CC-MAIN-2024-10"
        (source,) = find_sources(f"{address}/a.warc.gz")
        assert source.dump == "CC-MAIN-2024-10"
        assert captured(source) == 21
        assert fingerprint(source) == fingerprint(at(str(tmp_path / "CC-MAIN-2024-10" / "a.warc.gz")))
        with pytest.raises(UserError, match=r"cannot read http.*/none\.warc"):
            open_source(at(f"{address}/none.warc"))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Stumbling(io.BytesIO):
    """A file whose reads fail every other time; every failure closes it, as a broken connection does."""

    failures = 0

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() and Stumbling.failures % 2 == 0:
            Stumbling.failures += 1
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        Stumbling.failures += Stumbling.failures % 2
        return super().read(size)


def test_a_stumbling_storage_is_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(inputs, "_open", lambda path: Stumbling(ARCHIVE * 40))
    assert captured(at("memory://x.warc.gz")) == 800
    assert Stumbling.failures > 2


def test_a_storage_that_stays_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(inputs, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(inputs, "_open", lambda path: Gone(ARCHIVE))
    with pytest.raises(UserError, match=r"cannot read memory://x\.warc\.gz: Connection reset by peer"):
        captured(at("memory://x.warc.gz"))


def test_files_that_are_no_archives_are_passed_over_unless_all_are_such(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no archive")
    with pytest.raises(UserError, match=r"no file of input=.* is a web archive"):
        pipeline.sources(load_config("nano", None, [f"input={tmp_path}/*"]))
    (tmp_path / "a.warc.gz").write_bytes(ARCHIVE)
    fingerprints = pipeline.sources(load_config("nano", None, [f"input={tmp_path}/*"]))
    assert sum(name.startswith("file ") for name in fingerprints) == 2


def test_small_texts_are_read_together_and_each_keeps_its_place(tmp_path: Path) -> None:
    """A task and its outputs cost more than a short text: 300 files were 6,924 files in the run folder."""
    for number in range(300):
        (tmp_path / f"{number:03}.txt").write_text(f"Text {number} of the miller. " * 20)
    (tmp_path / "1500-large.txt").write_text("The long text of the miller. " * 60_000)
    config = TextConfig.model_validate({"sources": {"books": {"input": f"{tmp_path}/*.txt"}}})
    sources = find_sources(None, config)
    assert len(sources) == 3  # those before the large one, it, those behind
    paths = [file.path for source in sources for file in source.files()]
    assert paths == [f"file://{path}" for path in sorted(tmp_path.glob("*.txt"), key=str)]
    documents = [d for source in sources for d in format_documents(source, config, Counter())]
    assert [d.url for d in documents] == paths and len({d.id for d in documents}) == 301
    by_key = {source.key: source for source in sources}
    assert all(by_key[d.id >> ROW_BITS].place(d.id) == (d.url, 0) for d in documents)
