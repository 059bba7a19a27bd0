"""Documents as Parquet: they come back, from a folder and from S3; a stopped export goes on; nothing is overwritten."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet
import pytest

from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.base.tables import dataset_files, read_table
from ilm_ray.config.data import TextConfig
from ilm_ray.data.documents.document import Document
from ilm_ray.data.documents.export import write_dataset
from ilm_ray.data.documents.sources import find_sources
from ilm_ray.data.web.format.documents import format_documents
from ilm_ray.run.manifest import Manifest, commit
from jobs import export_documents

TEXTS = [
    "The mill stands by the river, and its wheel turns all day long.",
    "磨坊在河边，水轮整天转动。",
    "a\tb\n\u2028c",
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a finished text stage of three files; the last one is empty."""
    stage = tmp_path / "run" / "text"
    files = []
    for number in range(3):
        rows = []
        for place, text in enumerate(TEXTS if number < 2 else []):
            document = Document(2**60 + 10 * number + place, f"http://a/{number}/{place}", "2024-33", language="en")
            document.set_text(text)
            document.columns = {"symbol_ratio": 0.5, "words": place} | ({"toxicity_score": 0.1} if number else {})
            rows.append(document.row())
        files.append(stage / "final" / f"kept-{number:05d}.jsonl.zst")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(files[-1], rows)
    commit(stage, Manifest("text", {}, {}))
    return tmp_path / "run"


def exported(run: Path, out: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert export_documents.main(["--run-dir", str(run), "--out", out]) == code
    line: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return line


def test_the_same_documents_come_back_to_other_readers_and_to_the_text_stage(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(run, str(tmp_path / "out"), capsys)["documents"] == 6
    table = pyarrow.parquet.read_table(tmp_path / "out" / "data")  # one schema for all files
    assert table["text"].to_pylist() == TEXTS * 2 and table["id"][4].as_py() == str(2**60 + 11)
    assert json.loads(table["columns"][4].as_py()) == {"symbol_ratio": 0.5, "words": 1, "toxicity_score": 0.1}
    assert [split for split, _ in dataset_files(tmp_path / "out")] == ["train"] * 3
    config = TextConfig.model_validate({"sources": {"mine": {"input": str(tmp_path / "out" / "data" / "*.parquet")}}})
    again = [d.text for s in find_sources(None, config) for d in format_documents(s, config, Counter())]
    assert sorted(again) == sorted(TEXTS[:2] * 2 + [text for text in TEXTS[2:] * 2 if text in again])


def test_a_stopped_export_goes_on_and_another_one_is_not_overwritten(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, files = tmp_path / "out", sorted((run / "text" / "final").glob("kept-*"))

    def stop(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    fingerprint = Manifest("text", {}, {}).fingerprint
    with pytest.raises(KeyboardInterrupt):
        write_dataset(files, str(out), "text", fingerprint, stop)
    written = {path: path.stat().st_mtime_ns for path in out.glob("data/*.parquet")}
    (out / "data" / "train-00002-of-00003.parquet.partial").write_bytes(b"cut")
    counts = write_dataset(files, str(out), "text", fingerprint)
    assert counts == {"files": 3, "written": 1, "documents": 0} and len(written) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    assert sorted(path.name[-8:] for path in out.glob("data/*")) == [".parquet"] * 3
    commit(run / "text", Manifest("text", {"seed": 2}, {}))
    assert "holds an export of something else" in exported(run, str(out), capsys, 2)["error"]
    (tmp_path / "theirs" / "data").mkdir(parents=True)
    assert "no export of ours" in exported(run, str(tmp_path / "theirs"), capsys, 2)["error"]
    assert "no finished stage" in exported(tmp_path, str(tmp_path / "new"), capsys, 2)["error"]
    assert not (tmp_path / "new").exists()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    system = fsspec.filesystem("s3", skip_instance_cache=True)
    system.mkdir("bucket")
    yield "s3://bucket/mine"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.mark.long
def test_an_export_goes_to_s3(run: Path, bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    fsspec.filesystem("s3").clear_instance_cache()
    for written in (3, 0):
        assert exported(run, bucket, capsys)["written"] == written
    with fsspec.open(f"{bucket}/data/train-00001-of-00003.parquet") as stream:
        assert [row["text"] for row in read_table(stream, "x.parquet")] == TEXTS
