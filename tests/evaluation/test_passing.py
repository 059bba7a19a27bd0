"""A program passes if it reaches its end: not by leaving early, not by printing what a passing one would print."""

import pytest

from ilm_ray.evaluation.programs.passing import pass_rate
from ilm_ray.evaluation.programs.sandbox import ProgramLimits

PASSES = ("assert 1 + 1 == 2", "print('x' * 1000)", "")
FAILS = ("assert 1 + 1 == 3", "import os\nos._exit(0)", "raise SystemExit(0)", "def f(:", "while True: pass")


@pytest.mark.process
def test_only_programs_that_reach_their_end_pass() -> None:
    result = pass_rate([*PASSES, *FAILS], ProgramLimits(cpu_s=1, wall_s=20.0), "score")
    verdicts = [result["details"][str(i)]["is_correct"] for i in range(len(PASSES) + len(FAILS))]
    assert verdicts == [True] * len(PASSES) + [False] * len(FAILS)
    assert result["score"] == 100 * len(PASSES) / len(verdicts)
