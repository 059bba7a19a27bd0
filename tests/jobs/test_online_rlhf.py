"""What a round's end and the next one's beginning do with files, without training."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilm_ray.alignment.online.labels import read_comparisons
from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import write_jsonl
from ilm_ray.config import Config, load_config
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.run.journal import Journal
from ilm_ray.run.manifest import Manifest, commit, load
from ilm_ray.run.stage import Context, run_stage
from jobs.online_rlhf import LABELS, round_stages, take_labels
from tests.alignment.made_round import make_round
from tests.alignment.small_run import pairs_of
from tests.alignment.test_hacking import CASES, EN


def _run(folder: Path) -> Config:
    """A run whose PPO has left a round in which a phrase is loved; people's pairs do not know it."""
    tokenizer = Tokenizer([bytes([i]) for i in range(256)], 320)
    tokenizer.save(folder / "tokenizer")
    change, score, _ = CASES["phrase"]
    answers = make_round(0, change, score)
    (folder / "ppo" / "rollouts").mkdir(parents=True)
    for iteration in range(20):
        rows = [
            {"prompt_id": a.prompt, "domain": a.domain, "prompt": [1], "score": a.score, "kl": [0.0]}
            | {"response": [*tokenizer.encode(a.text), tokenizer.im_end_id], "version": max(0, iteration - 2)}
            | {"iteration": iteration}
            for a in answers
            if a.iteration == iteration
        ]
        path = folder / "ppo" / "rollouts" / f"iteration-{iteration:06d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
    prompts = [{"id": f"p{i}", "domain": "code", "prompt": [{"role": "user", "content": f"q{i}"}]} for i in range(60)]
    write_jsonl(folder / "prompts.jsonl", prompts)
    pair = {"prompt": [{"role": "user", "content": "q"}], "chosen": "yes", "rejected": "no"}
    pairs = [
        {**pair, "domain": ("code", "helpful")[i % 2], "split": ("train", "heldout")[i % 4 == 0]} for i in range(9)
    ]
    write_jsonl(folder / "pairs.jsonl", pairs)
    for stage in ("tokenizer", "reward", "ppo"):
        (folder / stage).mkdir(exist_ok=True)
        commit(folder / stage, Manifest(stage, {}, {}))
    return load_config(
        "nano", None, [f"ppo.prompts={folder / 'prompts.jsonl'}", f"reward.data={folder / 'pairs.jsonl'}"]
    )


def test_a_rounds_end_leaves_patterns_patches_and_comparisons(tmp_path: Path) -> None:
    config, journal = _run(tmp_path), Journal(tmp_path / "journal.jsonl")
    (stage,) = round_stages(1)
    done = run_stage(stage, config, tmp_path, journal)
    folder = tmp_path / "rounds" / "1" / "patterns"
    patterns = json.loads((folder / "patterns.json").read_text())
    assert [(p["trait"]["kind"], p["shown"]) for p in patterns["found"]] == [("phrase", EN)] and not patterns["learned"]
    assert done.metrics["summary"] == {"patterns": 1, "patches": patterns["found"][0]["patches"], "comparisons": 100}
    assert len(read_comparisons(folder / "comparisons.jsonl")) == 100
    # The reward stage can train on the patches as they are.
    patched_config = config.model_copy(
        update={"reward": config.reward.model_copy(update={"data": str(folder / "patches.jsonl"), "context": 2048})}
    )
    pairs = [pair for split in ("train", "heldout") for pair in pairs_of(patched_config, tmp_path / "tokenizer", split)]
    assert len(pairs) == done.metrics["summary"]["patches"] >= 20
    # Nothing has changed, so nothing runs again; labels that come later change nothing of a round that has ended.
    labels = tmp_path / "labels.jsonl"
    write_jsonl(labels, [])
    later = config.model_copy(update={"online": config.online.model_copy(update={"labels": str(labels)})})
    assert run_stage(stage, later, tmp_path, journal).fingerprint == done.fingerprint
    events = [json.loads(line)["kind"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert events == ["run", "done", "skip"]


def test_the_next_round_is_a_reward_model_ppo_and_their_patterns() -> None:
    assert [stage.name for stage in round_stages(3)] == ["rounds/3/reward", "rounds/3/ppo", "rounds/3/patterns"]
    reward, ppo, patterns = round_stages(3)
    needs = [stage.needed(load_config("nano")) for stage in (reward, ppo, patterns)]
    assert {"rounds/2/reward", "rounds/1/patterns", "rounds/2/patterns"} < set(needs[0])
    assert {"rounds/3/reward", "sft"} < set(needs[1]) and "rounds/3/ppo" in needs[2]


def test_a_run_without_rollouts_is_told_what_to_do(tmp_path: Path) -> None:
    config = _run(tmp_path)
    for path in (tmp_path / "ppo" / "rollouts").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="holds no rollouts; remove"):
        run_stage(round_stages(1)[0], config, tmp_path, Journal(tmp_path / "journal.jsonl"))
    assert load(tmp_path / "rounds" / "1" / "patterns") is None


def test_labels_join_the_round_that_starts_and_stay_as_they_were(tmp_path: Path) -> None:
    labels = tmp_path / "given.jsonl"
    config = load_config("nano", None, [f"online.labels={labels}"])

    def label(number: int) -> dict[str, Any]:
        turn = [{"role": "user", "content": "q"}]
        return {"id": str(number), "domain": "code", "prompt": turn, "a": "x", "b": "y", "label": "a"}

    def begin(number: int) -> list[str]:
        folder = tmp_path / "rounds" / str(number) / "reward"
        folder.mkdir(parents=True, exist_ok=True)
        take_labels(Context(config, folder, tmp_path, Journal(tmp_path / "journal.jsonl")), number)
        return [json.loads(line)["id"] for line in (folder / LABELS).read_text().splitlines()]

    assert begin(2) == []  # nobody has labelled anything yet, which is no error
    write_jsonl(labels, [label(1), label(2)])
    assert begin(2) == []  # the round has begun: resumed, it keeps what it had
    assert begin(3) == ["1", "2"]
    write_jsonl(labels, [label(1), label(2), label(3)])
    assert begin(3) == ["1", "2"] and begin(4) == ["3"]
