"""The black box: what is written is what was trained on, and doing the arithmetic again finds what was changed."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ilm_ray.alignment.ppo import blackbox
from ilm_ray.alignment.ppo.assemble import GroupOutputs, derive, experience_of, figures, losses
from ilm_ray.alignment.ppo.experience import Prompt, Rollouts
from ilm_ray.base.errors import UserError
from ilm_ray.config.alignment import PPOConfig
from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from jobs import explain

PPO = PPOConfig(kl_estimator="k3", reward_clip=1.0, normalize_advantages=True, value_clip=0.2, kl_coefficient=0.3)


def group_outputs(seed: int = 0) -> GroupOutputs:
    """Five rollouts of two domains, one of a single token, one with a gap that the policy did not choose."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [7, 1, 12, 3, 5]

    def drawn(scale: float) -> list[torch.Tensor]:
        return [scale * torch.randn(n, generator=generator) for n in lengths]

    masks = [torch.ones(n, dtype=torch.bool) for n in lengths]
    masks[2][4:7] = False
    # Of p0 and p1 two answers each.
    prompts = [Prompt(f"p{i % 3}", ("code", "helpful", "maths")[i % 3], [1, 2 + i % 3]) for i in range(5)]
    rolled = Rollouts(prompts, [list(range(10, 10 + n)) for n in lengths], drawn(1.0), 3)
    old, reference, values = drawn(1.0), drawn(1.0), drawn(0.5)
    scores = torch.randn(5, generator=generator).tolist()
    return GroupOutputs(rolled, masks, old, reference, values, scores, [{"model": s} for s in scores])


GROUPS = {"answers_per_prompt": 2, "correction": "truncate", "correction_bound": 1.1, "overlong_buffer": 6}
OTHERS = (
    {"estimator": "grpo", "kl_in": "loss", "loss_mean": "sequences", "skip_equal_groups": True},
    {"estimator": "rloo", "ratio": "sequence", "correction": "mask", "loss_mean": "longest"},
    {"estimator": "reinforce++", "clip_range_high": 0.3, "correction_level": "sequence"},
    {"estimator": "reinforce++_baseline"},
    {"estimator": "gae", "value_clip": 0.2},
)


def write(folder: Path, ppo: PPOConfig = PPO, unscored: int | None = None) -> Path:
    outputs = group_outputs()
    if unscored is not None:
        outputs.scores[unscored] = math.nan
    blackbox.write(folder, 6, ppo, outputs, derive(ppo, outputs))
    return blackbox.path_of(folder, 6)


def test_what_is_read_back_is_what_was_written_and_comes_out_again(tmp_path: Path) -> None:
    path, outputs = write(tmp_path), group_outputs()
    box = blackbox.read(tmp_path, 6)
    assert (
        box.outputs.rolled.prompts == outputs.rolled.prompts
        and box.outputs.rolled.responses == outputs.rolled.responses
    )
    assert box.outputs.scores == outputs.scores and box.outputs.rolled.version == 3
    for name in ("masks", "old", "reference", "values"):
        assert all(torch.equal(a, b) for a, b in zip(getattr(box.outputs, name), getattr(outputs, name), strict=True))
    largest, differences = blackbox.replay(box)
    assert differences == [] and max(largest.values()) <= blackbox.TOLERANCE
    assert set(largest) == {"kl", "rewards", "advantages", "returns", "weights", "masks", "policy_loss", "value_loss"}
    # The form that other readers rely on.
    table = pq.read_table(path)
    assert {"prompt_id", "domain", "prompt", "response", "score", "kl", "version", "iteration"} <= set(
        table.column_names
    )
    assert table["iteration"].to_pylist() == [6] * 5 and [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("changes", OTHERS, ids=lambda changes: changes["estimator"])
@pytest.mark.parametrize("unscored", [None, 1])
def test_every_estimator_comes_out_again(tmp_path: Path, changes: dict[str, Any], unscored: int | None) -> None:
    ppo = PPOConfig.model_validate({**GROUPS, "max_new_tokens": 12, **changes})
    write(tmp_path, ppo, unscored)
    box = blackbox.read(tmp_path, 6)
    largest, differences = blackbox.replay(box)
    assert differences == [] and max(largest.values()) <= blackbox.TOLERANCE
    assert ("value_loss" in box.losses) == ppo.has_critic
    trained = [bool(mask.any()) for mask in box.derived.masks]
    lost = {unscored} if unscored is not None else set()
    lost |= ({2} | ({4} if lost else set())) if ppo.skip_equal_groups else set()  # alone in their groups
    assert {n for n, used in enumerate(trained) if not used} == lost
    assert blackbox.summary(box)["reward"] == pytest.approx(
        statistics.fmean(s for n, s in enumerate(group_outputs().scores) if n != unscored)
    )
    experience = experience_of(box.outputs, box.derived)
    assert len(experience.sequences) == sum(trained)
    held = torch.cat([w[m] for w, m in zip(box.derived.weights, box.derived.masks, strict=True)])
    assert float(held.max()) <= 1.1 + 1e-6


def test_an_iteration_without_any_score_still_has_a_sequence_to_meet_for(tmp_path: Path) -> None:
    ppo = PPOConfig(estimator="grpo", answers_per_prompt=2)
    outputs = group_outputs()
    outputs.scores[:] = [math.nan] * 5
    derived = derive(ppo, outputs)
    experience, row = experience_of(outputs, derived), figures(ppo, outputs, derived)
    assert len(experience.sequences) == 1 and not experience.masks[0].any()
    assert row["unscored"] == 5 and row["reward"] == 0 and row["trained_share"] == 0
    assert all(math.isfinite(loss) for loss in losses(ppo, outputs, derived).values())


def _planted(path: Path, column: str, row: int, token: int) -> None:
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row][token] += 1e-4
    number = table.column_names.index(column)
    pq.write_table(table.set_column(number, column, pa.array(values, pa.list_(pa.float32()))), path)


@pytest.mark.parametrize(
    ("column", "seen_in"),
    [
        ("advantage", {"advantages"}),
        ("kl", {"kl"}),
        ("reward", {"rewards"}),
        ("return", {"returns"}),
        ("ref_logprob", {"kl", "rewards", "returns", "advantages"}),
    ],
)
def test_a_planted_difference_is_found_and_placed(tmp_path: Path, column: str, seen_in: set[str]) -> None:
    path = write(tmp_path)
    _planted(path, column, 2, 9)
    _, differences = blackbox.replay(blackbox.read(tmp_path, 6))
    assert seen_in <= {difference.what for difference in differences}
    first = differences[0]
    assert first.place == "rollout 2 (p2), response token 9" or column == "ref_logprob"
    assert abs(first.recorded - first.again) > 5e-6
    lines = list(blackbox.replay_lines(*blackbox.replay(blackbox.read(tmp_path, 6))))
    assert any("differ first at" in line for line in lines)


def test_other_losses_in_the_record_are_found(tmp_path: Path) -> None:
    path = write(tmp_path)
    table = pq.read_table(path)
    losses = json.loads(table.schema.metadata[blackbox.LOSSES])
    metadata = {
        **table.schema.metadata,
        blackbox.LOSSES: json.dumps({**losses, "policy_loss": losses["policy_loss"] + 1}),
    }
    pq.write_table(table.replace_schema_metadata(metadata), path)
    _, differences = blackbox.replay(blackbox.read(tmp_path, 6))
    assert [(difference.what, round(difference.recorded - difference.again, 6)) for difference in differences] == [
        ("policy_loss", 1.0)
    ]


def test_what_is_no_black_box_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there: none.*--iteration"):
        blackbox.read(tmp_path, 0)
    path = write(tmp_path)
    with pytest.raises(UserError, match="there: iteration-000006 to iteration-000006"):
        blackbox.read(tmp_path, 5)
    for content in (b"no parquet", pq.read_table(path).drop_columns(["value"])):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pq.write_table(content, path)
        with pytest.raises(UserError, match="cannot be read"):
            blackbox.read(tmp_path, 6)


def test_the_job_shows_each_domain_and_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Tokenizer(first_tokens(cl100k()[0], 300), 512).save(tmp_path / "tokenizer")
    path = write(tmp_path / "ppo")
    question = ["rollout", "--iteration", "6", "--run-dir", str(tmp_path), "--samples", "1", "--replay"]
    assert explain.main(question) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in out if "  score " in line] == ["code", "helpful", "maths"]
    assert sum(line.startswith("  token") for line in out) == 3
    printed = json.loads(out[-1])
    assert printed["status"] == "done" and printed["differences"] == [] and printed["rollouts"] == 5
    _planted(path, "kl", 4, 1)
    assert explain.main([*question, "--json"]) == 0
    (difference,) = json.loads(capsys.readouterr().out)["differences"]
    assert difference["what"] == "kl" and difference["place"] == "rollout 4 (p1), response token 1"
    assert explain.main([*question[:2], "7", *question[3:]]) == 2


@pytest.mark.parametrize(("limit", "share"), [(12, 0.2), (7, 0.4), (5, 0.6), (13, 0.0)])
def test_answers_as_long_as_the_limit_are_counted(limit: int, share: float) -> None:
    ppo, outputs = PPOConfig(max_new_tokens=limit), group_outputs()
    assert figures(ppo, outputs, derive(ppo, outputs))["cut_share"] == pytest.approx(share)


def test_a_run_that_goes_back_drops_the_files_behind(tmp_path: Path) -> None:
    outputs = group_outputs()
    for number in (2, 10, 11):
        blackbox.write(tmp_path, number, PPO, outputs, derive(PPO, outputs))
    blackbox.drop_from(tmp_path, 10)
    assert [path.stem for path in (tmp_path / "rollouts").iterdir()] == ["iteration-000002"]
