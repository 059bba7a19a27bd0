"""What explain says of a step against what training reads in it, and against the documents themselves."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config, load_config, save_config
from ilm_ray.data.documents.paths import write_sources
from ilm_ray.data.documents.sources import Source
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.shards import ShardWriter
from ilm_ray.report.explain.batch import Batch, explain, lines
from ilm_ray.run.manifest import Manifest, commit
from ilm_ray.training.pretrain import PretrainTask
from jobs.pretrain import STAGE

REPOSITORY = Path(__file__).parents[2]
ARCHIVE = Source(0, 7, 3, "CC-MAIN-2024-10", "file:///crawl/a.warc.gz")
TOKENIZER = Tokenizer([bytes([i]) for i in range(256)], 320)  # a byte is a token
TEXTS = {ARCHIVE.document_id(i): f"Page {i}: " + "word " * (5 + 9 * (i % 6)) for i in range(40)}
FILES = [[(f"src/m{i}_{j}.py", f"# file {j} of tree {i}\n" + "x = 1\n" * (3 + j)) for j in range(4)] for i in range(12)]


def _config() -> Config:
    values = load_config("nano").model_dump()
    phase = {"context": 64, "rope_base": 1e4, "batch_tokens": 512, "mixture": {"en": 0.5, "code": 0.5}}
    phases = [
        phase | {"name": "one", "steps": 5, "max_lr": 1e-3},
        phase | {"name": "two", "steps": 4, "max_lr": 1e-4, "short_share": 0.5, "short_context": 100},
    ]
    values["pretrain"] |= {"phases": phases}
    values["training"] |= {"workers": 1}
    return Config.model_validate(values)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    TOKENIZER.save(folder / "tokenizer")
    (folder / "text").mkdir()
    write_sources(folder / "text", [ARCHIVE])
    with ShardWriter(folder / "tokens" / "en" / "train", 0) as shard:
        for number, text in TEXTS.items():
            row = {"id": number, "url": f"http://a.b/{number}", "dump": ARCHIVE.dump}
            shard.add(TOKENIZER.encode_document(text), len(text), row)
    with ShardWriter(folder / "tokens" / "code" / "train", 0) as shard:
        for i, files in enumerate(FILES):
            spans, text = list[dict[str, Any]](), ""
            for path, content in files:
                spans.append({"path": path, "start": len(text), "end": len(text) + len(content)})
                text += content + "\n"
            row = {"id": 2**62 + i, "url": f"tree{i}#0", "dump": "code", "repository": f"tree{i}", "files": spans}
            shard.add(TOKENIZER.encode_document(text), len(text), row, weight=1 + i % 3)
    save_config(_config(), folder / "config.yaml")
    return folder


def _tokens(batch: Batch) -> list[int]:
    """The batch's tokens, by the documents' texts alone."""
    code = ["".join(content + "\n" for _, content in files) for files in FILES]
    whole = dict(TEXTS.items()) | {2**62 + i: text for i, text in enumerate(code)}
    return [t for p in batch.pieces for t in TOKENIZER.encode_document(whole[p.document]).tolist()[p.start : p.stop]]


@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (0, 2), (3, 4)])
def test_it_tells_what_training_reads(run_dir: Path, rank: int, ranks: int) -> None:
    task = PretrainTask(_config(), run_dir)
    for step in range(1, task.steps + 1):
        batch = explain(run_dir, step, rank, ranks)
        read = [t for packed, _ in task.micro_batches(step - 1, rank, ranks) for t in packed.tokens.tolist()]
        assert _tokens(batch) == read
        assert batch.learning_rate == task.learning_rate(step - 1)
        assert batch.phase == ("one" if step <= 5 else "two")
        assert [p.kind in ("short", "long") for p in batch.pieces] == [step > 5] * len(batch.pieces)


def test_pieces_lead_back_to_archive_and_files(run_dir: Path) -> None:
    seen = set[str]()
    for step in (1, 2, 3, 7, 8):
        for piece in explain(run_dir, step).pieces:
            seen.add(piece.source)
            if piece.source == "en":
                assert piece.origin["archive"] == ARCHIVE.path
                assert ARCHIVE.document_id(piece.origin["capture"]) == piece.document
                text = TEXTS[piece.document]
            else:
                files = FILES[piece.document - 2**62]
                text = "".join(content + "\n" for _, content in files)
                assert piece.origin["repository"] == f"tree{piece.document - 2**62}"
                inside = text[max(piece.start - 1, 0) : piece.stop - 1]
                heads = dict(files)
                for path, content in heads.items():  # a file's first line is its own
                    if content.split("\n")[0] in inside:
                        assert path in piece.origin["files"]
                assert len(piece.origin["files"]) >= 1 or len(inside) <= 1
            words = " ".join(text[max(piece.start - 1, 0) : piece.stop - 1].split())
            assert words.startswith(piece.text[:20]) and words.endswith(piece.text[-10:])
    assert seen == {"en", "code"}


def test_a_finished_run_is_explained_as_it_was_trained_or_not_at_all(run_dir: Path, tmp_path: Path) -> None:
    for name in ("tokens", "tokenizer", "text"):
        shutil.copytree(run_dir / name, tmp_path / name)
    save_config(load_config("nano"), tmp_path / "config.yaml")  # of a later job
    read = {stage: Manifest(stage, {}, {}) for stage in STAGE.needed(_config())}
    for stage, manifest in read.items():
        (tmp_path / stage).mkdir(exist_ok=True)
        commit(tmp_path / stage, manifest)
    settings = STAGE.settings(_config())
    (tmp_path / "pretrain").mkdir()
    commit(tmp_path / "pretrain", Manifest("pretrain", settings, {name: m.fingerprint for name, m in read.items()}))
    assert explain(tmp_path, 7) == explain(run_dir, 7)
    commit(tmp_path / "tokens", Manifest("tokens", {"heldout_share": 0.1}, {}))
    with pytest.raises(UserError, match="tokens is no longer what pre-training read"):
        explain(tmp_path, 7)


def test_batches_that_training_left_out_are_left_out(run_dir: Path, tmp_path: Path) -> None:
    for name in ("tokens", "tokenizer", "text"):
        (tmp_path / name).symlink_to(run_dir / name)
    shutil.copy(run_dir / "config.yaml", tmp_path)
    task = PretrainTask(_config(), run_dir)
    task.skip(1, 2)  # after a spike in step 2, counted from 0
    (tmp_path / "pretrain").mkdir()
    incident = {"step": 2, "incident": "spike", "why": "", "action": "", "skipped": task.skipped}
    (tmp_path / "pretrain" / "incidents.jsonl").write_text(json.dumps(incident) + "\n")
    for step in (1, 2, 3):
        expected = [t for batch, _ in task.micro_batches(step - 1, 0, 1) for t in batch.tokens.tolist()]
        assert _tokens(explain(tmp_path, step)) == expected
    assert explain(tmp_path, 2).sequences == explain(run_dir, 4).sequences


def test_the_layout_of_the_workers_does_not_matter(run_dir: Path, tmp_path: Path) -> None:
    for name in ("tokens", "tokenizer", "text"):
        (tmp_path / name).symlink_to(run_dir / name)
    values = _config().model_dump()
    values["training"] |= {"workers": 4, "layout": {"tp": 2}}
    save_config(Config.model_validate(values), tmp_path / "config.yaml")
    assert explain(tmp_path, 7) == explain(run_dir, 7)


@pytest.mark.process
def test_the_job_prints_words_or_json(run_dir: Path) -> None:
    code, out, err = _job("--step", "2", "--run-dir", str(run_dir))
    assert code == 0 and err == []
    assert out[:-1] == list(lines(explain(run_dir, 2)))
    assert json.loads(out[-1])["tokens"].keys() == {"en", "code"}
    code, out, err = _job("--step", "2", "--run-dir", str(run_dir), "--rank", "1", "--ranks", "2", "--json")
    answer = json.loads(out[0])
    assert code == 0 and answer["sequence_numbers"] == [9, 11, 13, 15]
    assert sum(p["stop"] - p["start"] for p in answer["pieces"]) == 4 * 64


def _job(*arguments: str) -> tuple[int, list[str], list[str]]:
    command = [sys.executable, "jobs/explain.py", "batch", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=90)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


@pytest.mark.process
def test_bad_input_is_one_line_and_exit_code_2(run_dir: Path) -> None:
    code, out, err = _job("--step", "10", "--run-dir", str(run_dir))
    assert code == 2 and len(err) == 1 and "steps 1 to 9" in err[0]
    assert json.loads(out[0])["status"] == "refused"


def test_what_is_missing_is_said(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="step 0 does not exist"):
        explain(run_dir, 0)
    for rank, ranks in ((2, 2), (0, 3), (0, 0)):
        with pytest.raises(UserError, match="a divisor of the 8 sequences"):
            explain(run_dir, 1, rank, ranks)
    with pytest.raises(UserError, match="nowhere does not exist"):
        explain(tmp_path / "nowhere", 1)
    with pytest.raises(UserError, match=r"config.yaml does not exist"):
        explain(tmp_path, 1)
    save_config(_config(), tmp_path / "config.yaml")
    with pytest.raises(UserError, match="holds no token shards"):
        explain(tmp_path, 1)
    (tmp_path / "tokens").symlink_to(run_dir / "tokens")
    with pytest.raises(UserError, match="no tokenizer"):
        explain(tmp_path, 1)
    (tmp_path / "tokens").unlink()
    with ShardWriter(tmp_path / "tokens" / "en" / "train", 0) as shard:
        shard.add(np.arange(9), 9, {"id": 1})
    (tmp_path / "tokens" / "en" / "train" / "shard-00000.ids.npy").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        explain(tmp_path, 1)
    (tmp_path / "tokens" / "en" / "train" / "shard-00000.ids.npy").touch()
    with pytest.raises(UserError, match="cannot be read"):
        explain(tmp_path, 1)
    (tmp_path / "config.yaml").write_text("pretrain: {phases: 3}\nseed: 1")
    with pytest.raises(UserError, match="does not say how to pre-train"):
        explain(tmp_path, 1)
