"""jobs/plan.py prints the table and one JSON line; bad input is refused in one line."""

import json
import math

import pytest

from ilm_ray.config import load_config
from ilm_ray.training.plan.cards import known_device
from ilm_ray.training.plan.shape import shape_of
from ilm_ray.training.plan.stretches import stretches
from ilm_ray.training.plan.trainings import fine_tuning, pretraining, reward_training
from jobs.plan import main, ppo_memory


def test_a_plan_is_a_table_and_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", "1_8b", "--devices", "8", "--device", "h100", "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert summary["status"] == "done" and len(summary["plans"]) == 3
    assert summary["not_named"] == [
        *("input", "sft.data", "reward.data", "ppo.prompts", "code.source"),
        *(f"text.sources.{name}.input" for name in ("stem", "special_domain", "high_quality")),
    ]
    assert any(line.startswith("Steps that are off: no list named (text.blocked_domains, ") for line in lines)
    shown = [line.split("|")[2].strip().replace(",", "") for line in lines[2:5]]
    assert [float(s) for s in shown] == pytest.approx(
        [plan["tokens_per_second_per_device"] for plan in summary["plans"]], abs=0.6
    )


def test_a_dry_run_shows_every_phase_and_what_all_take(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--preset", "7b", "--devices", "13", "--device", "h100", "--phases", "training.layout={tp: 2}"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert [row["phase"] for row in summary["phases"]] == ["short_context", "long_context", "enhancement"]
    assert summary["tokens"] == sum(row["tokens"] for row in summary["phases"]) == 2_004_396_015_616
    assert summary["hours"] == pytest.approx(sum(row["hours"] for row in summary["phases"]), abs=0.01)
    assert summary["device_hours"] == pytest.approx(13 * summary["hours"], rel=1e-3)  # idle ones are paid for too
    first, degrees = summary["phases"][0], summary["layouts"][0]
    ranks = math.prod(degrees.get(name, 1) for name in ("dp", "pp", "cp", "tp"))
    assert f"{13 - ranks} idle" in summary["why"]
    speed = first["tokens_per_second_per_device"] * ranks
    assert first["hours"] * 3600 * speed == pytest.approx(first["tokens"], rel=1e-3)
    assert any(line.startswith("Predictions, without evaluation") for line in lines)
    assert any(line.startswith("Checkpoints: 92.9 GB each") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "8b", "--devices", "8", "--device", "h100"], "8b"),
        (["--preset", "7b", "--devices", "0", "--device", "h100"], "not a positive number"),
        (["--preset", "7b", "--devices", "8", "--device", "h100", "--context", "4097"], "must divide"),
        (["--preset", "20b", "--devices", "1", "--device", "h100"], "does not fit into memory"),
        (["--preset", "20b", "--devices", "1", "--device", "h100", "--phases"], "no layout of 1 h100 can do this"),
        (["--preset", "7b", "--devices", "8"], "--device KIND"),
        (["--preset", "7b", "--devices", "8", "--calibration", "/nowhere.json"], "/nowhere.json is no calibration"),
        (["--preset", "7b", "--devices", "8", "--device", "h100", "pretrain.layuot=auto"], "did you mean"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1
    assert json.loads(captured.out.splitlines()[-1])["status"] == "refused"


def test_an_unknown_card_is_planned_as_a_slow_one_and_said_to_be_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--preset", "mini", "--devices", "1", "--device", "Brand New 9000", "--memory-gib", "16", "--phases"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("No data sheet of 'Brand New 9000' here: taken to be as slow as rtx3090, with 16 GiB;")
    summary = json.loads(lines[-1])
    assert all(row["memory_bytes"] <= 16 * 2**30 for row in summary["phases"])
    assert "and has 14.4 GiB for tensors" in summary["alignment"]["ppo"]["memory"]


def test_the_dry_run_says_what_ppo_needs() -> None:
    card = known_device("NVIDIA A100-SXM4-40GB")
    assert ppo_memory(load_config("1_8b"), 8, card).startswith("the 32 ranks of PPO have 8 GPU(s)")
    ranks = ["ppo.policy_ranks=32", "ppo.critic_ranks=32", "ppo.engine_gpus=4", "training.micro_tokens=16384"]
    line = ppo_memory(load_config("20b", None, ranks), 104, card)
    assert line.startswith("PPO does not fit: a GPU needs") and line.endswith("; set ppo.scorer_gpus=2")
    assert ppo_memory(load_config("20b", None, [*ranks, "ppo.scorer_gpus=2"]), 104, card).endswith("on its fullest GPU")


@pytest.mark.long
@pytest.mark.parametrize("preset", ["mini", "1_8b"])
def test_the_dry_run_is_the_run(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What the job shows for eight cards, and what eight workers on such cards lay out."""
    assert main(["--preset", preset, "--devices", "8", "--device", "a100-40gb", "--phases"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    config = load_config(preset, None, ["training.workers=8"])
    device, shape = known_device("NVIDIA A100-SXM4-40GB"), shape_of(config, config.tokenizer.vocab_size)
    run = stretches(pretraining(config, shape), 8, 8, device).all
    assert summary["layouts"] == [part.layout.model_dump(exclude_defaults=True) for part in run]
    sizes = [part.at_once * phase.context for part, phase in zip(run, config.pretrain.phases, strict=True)]
    assert [row["micro_tokens"] for row in summary["phases"]] == sizes
    for name, training in (("sft", fine_tuning(config, shape)), ("reward", reward_training(config, shape))):
        (part,) = stretches(training, 8, 8, device).all
        shown = summary["alignment"][name]
        assert (shown["layout"], shown["micro_tokens"]) == (
            part.layout.model_dump(exclude_defaults=True),
            part.micro_tokens,
        )
        assert shown["memory_bytes"] <= device.usable_memory
    assert summary["alignment"]["ppo"]["hours"] > 0
