"""Pre-training over its phases, in layouts: the same sequences, losses, held-out bits per byte and weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ilm_ray.config import Config, load_config
from ilm_ray.config.layout import Layout
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.data.tokens.shards import write_shard
from ilm_ray.model.internlm2 import CausalLM
from ilm_ray.model.weights import load_causal
from ilm_ray.training.checkpoints.checkpoints import Storage
from ilm_ray.training.faults.watch import Watch
from ilm_ray.training.loop import LoopSettings, train
from ilm_ray.training.pretrain import PretrainTask
from tests.processes import run_ranks

VOCABULARY = 320
MEASURED = {
    "window_seconds",
    "tokens_per_second",
    "model_flops",
    "data_share",
    "checkpoint_share",
    "checkpoint_seconds",
}
OF_A_LAYOUT = {"pipeline_bubble"}
LAYOUTS = {
    "dp4": Layout(),
    "pp2 tp2 sp": Layout(pp=2, tp=2, sequence_parallel=True, gradients="replica"),
    "pp2 cp2": Layout(pp=2, cp=2, gradients="replica"),
}


class Exact(PretrainTask):
    """In fp64, to compare closely; keeps the sequences that this replica was given."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        super().__init__(config, run_dir)
        self.read: list[list[int]] = []

    def build(self) -> CausalLM:
        return super().build().double()

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[Any]:
        micros = super().micro_batches(step, rank, ranks)
        self.read += [tokens for batch, _ in micros for tokens in batch.tokens.view(-1, 16).tolist()]
        return micros


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "tokenizer").mkdir()
    Tokenizer([bytes([i]) for i in range(256)], VOCABULARY).save(folder / "tokenizer")
    generator = np.random.default_rng(0)
    for source in ("en", "code"):
        for split, count in (("train", 40), ("heldout", 7)):
            documents = []
            for i in range(count):
                tokens = generator.integers(0, 256, int(generator.integers(2, 40))).tolist()
                documents.append({"tokens": tokens, "bytes": len(tokens), "id": i, "url": str(i), "dump": "d"})
            write_shard(folder / "tokens" / source / split, 0, documents)
    return folder


def _config() -> Config:
    phase = "batch_tokens: 128, max_lr: 0.01, mixture: {en: 0.5, code: 0.5}"
    overrides = [
        "pretrain.phases=["
        f"{{name: short, steps: 2, context: 16, rope_base: 100.0, {phase}}}, "
        f"{{name: long, steps: 2, context: 32, rope_base: 10000.0, {phase}}}]",
        "training.micro_tokens=32",
        "model={layers: 3, hidden: 32, kv_heads: 2, queries_per_kv: 2, head_dim: 8, mlp_hidden: 48}",
        f"tokenizer.vocab_size={VOCABULARY}",
    ]
    return load_config("nano", None, overrides)


def _train(run_dir: str, folder: str, layout: Layout) -> None:
    task, rows = Exact(_config(), Path(run_dir)), list[dict[str, Any]]()
    settings = LoopSettings("fp32", (0.9, 0.95), 1e-8, 0.1, clip_norm=0.5, storage=Storage(keep_local=1), layout=layout)
    Path(folder).mkdir(exist_ok=True)
    train(task, settings, Path(folder), rows.append, Watch(Path(folder) / "watch", dist.get_rank(), 60.0))
    (Path(folder) / f"{dist.get_rank()}.json").write_text(json.dumps({"rows": rows, "read": task.read}))


def _result(folder: Path, rank: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"{rank}.json").read_text())


@pytest.fixture(scope="module")
def alone(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run_ranks(_train, 1, str(run_dir), str(folder), Layout())
    return folder


@pytest.mark.ranks
@pytest.mark.parametrize("name", LAYOUTS)
def test_phases_go_the_same_way_in_any_layout(run_dir: Path, alone: Path, tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name].on(4)
    run_ranks(_train, 4, str(run_dir), str(tmp_path), layout)
    expected = _result(alone)
    for rank in range(4):  # every rank logs the figures of the whole batch
        rows = _result(tmp_path, rank)["rows"]
        assert len(rows) == len(expected["rows"])
        for logged, row in zip(rows, expected["rows"], strict=True):
            assert logged.keys() == row.keys()
            for key in row.keys() - MEASURED - OF_A_LAYOUT - {"evaluations"}:
                assert logged[key] == pytest.approx(row[key], abs=1e-9), key
            for a, b in zip(logged.get("evaluations", []), row.get("evaluations", []), strict=True):
                assert a["phase"] == b["phase"] and a["bits_per_byte"] == pytest.approx(b["bits_per_byte"], abs=1e-9)
    # The replicas together read what one process reads, and the ranks of a replica read the same.
    replicas = [_result(tmp_path, rank)["read"] for rank in range(4)]
    assert sorted(s for i in sorted({replicas.index(r) for r in replicas}) for s in replicas[i]) == sorted(
        expected["read"]
    )
    ours, theirs = load_causal(tmp_path / "model"), load_causal(alone / "model")
    assert ours.shape == theirs.shape and (ours.shape.rope_base, ours.shape.context) == (10_000.0, 32)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
