"""What lies in run folders and stores: manifests, COMMIT records, `.metadata`, model folders, vocabularies."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.model.huggingface import export_model, read_model
from ilm_ray.model.internlm2 import CausalLM, Shape
from ilm_ray.run import manifest as manifests
from ilm_ray.run.manifest import Manifest
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.commit import Commit, File
from ilm_ray.training.checkpoints.states import tensors_in
from ilm_ray.training.checkpoints.store import Store
from tests.fuzz.limits import bounded, few, refusals
from tests.fuzz.made import as_json, damaged, rewritten, texts, values

MANIFEST = dataclasses.asdict(
    Manifest("text", {"a": 1}, {"x": "1"}, {"f": {"bytes": 1, "sha256": "0"}}, {"summary": {}}, 1.0, 2.0)
)
RECORD = dataclasses.asdict(
    Commit(3, 1.5, {"step": 3}, "f", 10, {"__0_0.distcp": File(4, hashlib.sha256(b"abcd").hexdigest())})
)


def signed(record: Any) -> bytes:
    """A record whose hash is right: whoever can write to a store can compute it."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    return json.dumps({**record, "sha256": digest}).encode()


@given(st.one_of(rewritten(MANIFEST).map(as_json), damaged([as_json(MANIFEST)])))
@example(b"[" * 100_000)
@example(as_json(MANIFEST | {"files": {"../x": {"bytes": 1}}}))
@example(as_json(MANIFEST | {"settings": {"x": None}, "inputs": {"x": None}, "files": {}}))
@example(as_json(MANIFEST | {"settings": {"x": {"y": None}}, "inputs": {}, "files": {}}))
@few(40)
def test_a_manifest_is_whole_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, refusals():
        (Path(folder) / manifests.NAME).write_bytes(content)
        manifest = manifests.load(Path(folder))
        assert manifest is not None
        stale = manifests.why_stale(manifest, Path(folder), {}, {})
        assert manifest.fingerprint
        # A setting that is None is as one that is not there: a new option that is off leaves a run as it was.
        assert stale is not None or not (manifest.inputs or manifest.files or _holds_a_value(manifest.settings))


def _holds_a_value(value: Any) -> bool:
    return any(map(_holds_a_value, value.values())) if isinstance(value, dict) else value is not None


@given(st.one_of(rewritten(RECORD).map(signed), damaged([signed(RECORD)])))
@example(b"[" * 100_000)
@example(signed(RECORD | {"files": {"../../x": {"bytes": 1, "sha256": "0"}}}))
@example(signed(RECORD | {"step": "../../x"}))
@few(40)
def test_a_commit_record_is_whole_or_a_value_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, bounded():
        path = Path(folder) / commit.name_of(3)
        path.mkdir()
        (path / commit.COMMIT).write_bytes(content)
        assert all(isinstance(phrase, str) for phrase in commit.verify(path))
        try:
            record = commit.read(path)
        except ValueError:
            return
        assert commit.name_of(record.step) and record.bytes >= 0
        assert all(name and Path(name).name == name for name in record.files)
        assert commit.parse(record.text()) == record


FILES = st.dictionaries(texts, st.just({"bytes": 4, "sha256": "0"}), max_size=3)


@given(st.one_of(rewritten(RECORD).map(signed), FILES.map(lambda files: signed(RECORD | {"files": files}))))
@example(signed(RECORD | {"files": {"../../planted": {"bytes": 4, "sha256": "0"}}}))
@example(signed(RECORD | {"step": 4}))
@few(30)
def test_a_store_writes_into_its_folder_only(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as top:
        remote, local = Path(top, "store", "step-00000003"), Path(top, "run", "checkpoints")
        for folder in (remote, local):
            folder.mkdir(parents=True)
        (remote / commit.COMMIT).write_bytes(content)
        (remote / "__0_0.distcp").write_bytes(b"abcd")
        (Path(top) / "planted").write_bytes(b"evil")
        before = {path for path in Path(top).rglob("*") if local not in path.parents}
        with bounded():
            store = Store(str(Path(top, "store")))
            for step in store.checkpoints():
                with contextlib.suppress(OSError, ValueError):  # what a store raises: it does not hold what it says
                    assert store.fetch(step, local).parent == local
        assert {path for path in Path(top).rglob("*") if local not in path.parents} == before


@functools.cache
def metadata() -> bytes:
    import torch.distributed.checkpoint as dcp

    with tempfile.TemporaryDirectory() as folder:
        dcp.save({"model": {"w": torch.zeros(3, 4)}}, checkpoint_id=folder, no_dist=True)
        return (Path(folder) / ".metadata").read_bytes()


class Planted:
    """Its unpickling would write a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.path),))


@given(st.one_of(st.deferred(lambda: damaged([metadata()])), st.binary(max_size=200)))
@example(pickle.dumps(Planted("/tmp/ilm_ray_planted")))
@few(30)
def test_metadata_of_a_checkpoint_is_read_or_a_value_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, bounded():
        (Path(folder) / ".metadata").write_bytes(content)
        try:
            tensors = tensors_in(Path(folder))
        except ValueError:
            return
        assert isinstance(tensors, dict)
    assert not Path("/tmp/ilm_ray_planted").exists()


@functools.cache
def exported(layout: str) -> dict[str, bytes]:
    model = CausalLM(Shape(32, 2, 16, 1, 2, 8, 24))  # one group of heads, whose export failed once
    with tempfile.TemporaryDirectory() as folder:
        export_model(model, Path(folder), layout, torch.float32, {"eos_token_id": 1})
        return {
            path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix in (".json", ".safetensors")
        }


@st.composite
def model_folders(draw: st.DrawFn) -> dict[str, bytes]:
    files = dict(exported(draw(st.sampled_from(["internlm2", "llama"]))))
    how = draw(st.sampled_from(["config", "config bytes", "weights", "header", "index"]))
    config = json.loads(files["config.json"])
    if how == "config":
        files["config.json"] = as_json(draw(rewritten(config)))
    elif how == "config bytes":
        files["config.json"] = draw(damaged([files["config.json"]]))
    elif how == "weights":
        files["model.safetensors"] = draw(damaged([files["model.safetensors"][:400], files["model.safetensors"]]))
    elif how == "header":
        size = int.from_bytes(files["model.safetensors"][:8], "little")
        header = as_json(draw(rewritten(json.loads(files["model.safetensors"][8 : 8 + size]))))
        files["model.safetensors"] = len(header).to_bytes(8, "little") + header + files["model.safetensors"][8 + size :]
    else:
        index = {"weight_map": {"a": "model.safetensors"}}
        files["model.safetensors.index.json"] = as_json(draw(st.one_of(rewritten(index), values)))
    return files


def with_config(**changes: Any) -> dict[str, bytes]:
    files = dict(exported("llama"))
    return files | {"config.json": as_json(json.loads(files["config.json"]) | changes)}


@pytest.mark.long
@given(st.deferred(model_folders))
@few(40)
def test_a_model_folder_is_a_model_or_refused(files: dict[str, bytes]) -> None:
    importing(files)


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 10**12}, {"num_hidden_layers": 10**9}, {"hidden_size": "16"}, {"num_hidden_layers": -1},
        {"rms_norm_eps": None}, {"architectures": [[]]}, {"vocab_size": 32.5}, {"head_dim": 7}, {"rope_scaling": 3},
        {"rope_theta": "x"}, {"hidden_act": ["\ud800\n"]}, {"num_key_value_heads": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_model_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    importing(with_config(**changes))


def importing(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder, refusals():
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        assert read_model(Path(folder)).shape.layers >= 1


@functools.cache
def vocabulary() -> tuple[dict[str, Any], bytes]:
    with tempfile.TemporaryDirectory() as folder:
        about, ranks = Tokenizer(first_tokens(cl100k()[0], 300), 400).save(Path(folder))
        return json.loads(about.read_text()), ranks.read_bytes()


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    about, ranks = vocabulary()
    how = draw(st.sampled_from(["values", "bytes", "ranks"]))
    if how == "values":
        return as_json(draw(rewritten(about))), ranks
    if how == "bytes":
        return draw(damaged([as_json(about)])), ranks
    ranks = draw(damaged([ranks, ranks[:200], b"YQ== 0\n\nYg== 1\n"]))
    return as_json(about | {"ranks_sha256": hashlib.sha256(ranks).hexdigest()}), ranks


def ranked(ranks: bytes, **changes: Any) -> tuple[bytes, bytes]:
    return as_json(vocabulary()[0] | {"ranks_sha256": hashlib.sha256(ranks).hexdigest()} | changes), ranks


@given(st.deferred(vocabularies))
@few(15)
def test_a_vocabulary_is_whole_or_refused(files: tuple[bytes, bytes]) -> None:
    loading(files)


@pytest.mark.parametrize(
    "changes", [{"vocab_size": 10**12}, {"vocab_size": "400"}, {"vocab_size": 400.5}, {"format": []}], ids=str
)
def test_a_vocabulary_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    loading(ranked(vocabulary()[1], **changes))


@pytest.mark.parametrize("ranks", [b"", b"\n", b"YQ== 0\n", b"YQ== 0\nYQ== 1\n", b" 0\n"])
def test_ranks_that_cannot_be_are_refused(ranks: bytes) -> None:
    loading(ranked(ranks))


def loading(files: tuple[bytes, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder, refusals():
        for name, content in zip(("vocabulary.json", "vocabulary.tiktoken"), files, strict=True):
            (Path(folder) / name).write_bytes(content)
        tokenizer = Tokenizer.load(Path(folder))
        assert tokenizer.decode(tokenizer.encode("Any text, 好.")) == "Any text, 好."
