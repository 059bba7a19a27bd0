"""SFT and reward tasks on a tiny run folder: the layout changes neither what a step trains on nor its loss."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ilm_ray.alignment.reward import RewardTask
from ilm_ray.alignment.sft import SFTTask
from ilm_ray.config import Config, load_config
from ilm_ray.corpus.tokens import write_shard
from ilm_ray.model.huggingface import save_internlm2
from ilm_ray.model.internlm2 import CausalLM, Shape, initialize
from ilm_ray.tokenizer.tokenizer import Tokenizer

MICRO_TOKENS = 120
SHAPE = Shape(vocab_size=320, layers=1, hidden=32, kv_heads=2, queries_per_kv=1, head_dim=16, mlp_hidden=48)


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "tokenizer").mkdir()
    Tokenizer([bytes([i]) for i in range(256)], SHAPE.vocab_size).save(folder / "tokenizer")
    documents = [
        {"tokens": [300, *range(i, i + 9 + i)], "bytes": 9 + i, "id": i, "url": str(i), "dump": "d"} for i in range(20)
    ]
    write_shard(folder / "tokens" / "en" / "train", 0, documents)
    model = CausalLM(SHAPE)
    initialize(model, 0)
    for stage in ("pretrain", "sft"):
        save_internlm2(model, folder / stage / "model")
    chats = [
        {"messages": [_message("user", "q" * (1 + i % 5)), _message("assistant", "a" * (3 + 7 * i % 30))]}
        for i in range(30)
    ]
    pairs = [
        {
            "domain": ("code", "helpful")[i % 2],
            "prompt": [_message("user", "q" * (1 + i % 3))],
            "chosen": "c" * (1 + i % 7),
            "rejected": "r" * (1 + i % 4),
            "split": "train" if i % 4 else "heldout",
        }
        for i in range(16)
    ]
    for name, rows in (("chat", chats), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _config(run_dir: Path) -> Config:
    config = load_config(
        "nano",
        None,
        [
            f"sft.data={run_dir / 'chat.jsonl'}",
            f"reward.data={run_dir / 'pairs.jsonl'}",
            "sft.context=64",
            "sft.batch_tokens=300",
            "sft.pretrain_share=0.4",
            "reward.batch_tokens=400",
            "reward.context=200",
        ],
    )
    prompts = {"code": "C.", "helpful": "H."}
    return config.model_copy(
        update={
            "pretrain": config.pretrain.model_copy(update={"micro_tokens": MICRO_TOKENS}),
            "reward": config.reward.model_copy(update={"system_prompts": prompts}),
        }
    )


def _examples(task: Any, micro: list[Any]) -> list[tuple[int, ...]]:
    if isinstance(task, RewardTask):
        return [(*pair.chosen, -1, *pair.rejected) for pair in micro]
    return [tuple(ids.tolist()) for ids, _ in micro]


@pytest.mark.parametrize("make", [SFTTask, RewardTask])
def test_ranks_share_a_step_in_equally_many_bounded_micro_batches(run_dir: Path, make: Any) -> None:
    task = make(_config(run_dir), run_dir)
    model = task.build()
    task.fill(model)
    assert task.steps > 1
    for step in range(task.steps):
        seen = []
        for ranks in (1, 2, 3, 40):
            shares = [task.micro_batches(step, rank, ranks) for rank in range(ranks)]
            assert len({len(micros) for micros in shares}) == 1
            micros = [micro for share in shares for micro in share]
            assert all(task.tokens(micro) <= MICRO_TOKENS or len(micro) == 1 for micro in micros)
            assert any(not micro for micro in micros) or ranks < 40  # so that idle ranks are looked at, too
            losses = [task.losses(model, micro) for micro in micros]
            assert all(part.count == task.count(micro) for part, micro in zip(losses, micros, strict=True))
            assert len({tuple(part.figures) for part in losses}) == 1  # ranks add them up by name
            seen.append(
                (
                    sorted(example for micro in micros for example in _examples(task, micro)),
                    sum(task.tokens(micro) for micro in micros),
                    sum(part.count for part in losses),
                    sum(float(part.loss.detach()) for part in losses),
                )
            )
        assert all(other[:3] == seen[0][:3] for other in seen)
        assert all(other[3] == pytest.approx(seen[0][3], rel=1e-5) for other in seen)
    expected = task.pairs if isinstance(task, RewardTask) else task.examples
    assert sorted(int(i) for step in task.plan for i in step) == sorted([*range(len(expected))] * _epochs(task))


@pytest.mark.parametrize("make", [SFTTask, RewardTask])
def test_an_idle_rank_has_no_loss_and_yet_a_gradient_for_every_parameter(run_dir: Path, make: Any) -> None:
    task = make(_config(run_dir), run_dir)
    model = task.build()
    task.fill(model)
    losses = task.losses(model, [])
    losses.loss.backward()
    assert losses.loss.item() == 0.0 and losses.count == 0.0 and task.tokens([]) == 0
    assert all(p.grad is not None and not torch.any(p.grad) for p in model.parameters())


def _epochs(task: Any) -> int:
    return task.config.reward.epochs if isinstance(task, RewardTask) else task.config.sft.epochs
