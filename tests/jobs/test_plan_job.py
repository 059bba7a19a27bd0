"""jobs/plan.py prints the table and one JSON line; bad input is refused in one line."""

import json

import pytest

from jobs.plan import main


def test_a_plan_is_a_table_and_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", "1_8b", "--devices", "8", "--device", "h100", "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert summary["status"] == "done" and len(summary["plans"]) == 3
    shown = [line.split("|")[2].strip().replace(",", "") for line in lines[2:5]]
    assert shown == [f"{plan['tokens_per_second_per_device']:.0f}" for plan in summary["plans"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "8b", "--devices", "8", "--device", "h100"], "8b"),
        (["--preset", "7b", "--devices", "0", "--device", "h100"], "not a positive number"),
        (["--preset", "7b", "--devices", "8", "--device", "v100"], "v100"),
        (["--preset", "7b", "--devices", "8", "--device", "h100", "--context", "4097"], "must divide"),
        (["--preset", "20b", "--devices", "1", "--device", "h100"], "does not fit into memory"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1
    assert json.loads(captured.out.splitlines()[-1])["status"] == "refused"
