"""jobs/plan.py prints the table and one JSON line; bad input is refused in one line."""

import json
import math

import pytest

from jobs.plan import main


def test_a_plan_is_a_table_and_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", "1_8b", "--devices", "8", "--device", "h100", "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert summary["status"] == "done" and len(summary["plans"]) == 3
    assert summary["not_named"] == ["input", "sft.data", "reward.data", "ppo.prompts", "code.source"]
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
    first, degrees = summary["phases"][0], summary["layout"]
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
        (["--preset", "7b", "--devices", "8", "--device", "v100"], "v100"),
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
