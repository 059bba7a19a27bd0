"""Pass rates of model-written programs. A program passes when its tests, which it cannot read, run to their end."""

import json
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ilm_ray.evaluation.programs.sandbox import TOOLCHAINS, Outcome, ProgramLimits, run_in_sandbox

AT_ONCE = 2
_RUNNER = Path(__file__).with_name("separate_tests.py")
_WITH_TESTS = replace(
    TOOLCHAINS["python"], file="solution.py", more=(("main.py", _RUNNER.read_text(encoding="utf-8")),)
)


class ProgramAndTests(NamedTuple):
    """A Python program, and the tests that run behind it in the same module."""

    program: str
    tests: str

    def __str__(self) -> str:
        return f"{self.program}\n{self.tests}\n"


Program = TypeVar("Program", str, ProgramAndTests)


def pass_rate(programs: Sequence[ProgramAndTests], limits: ProgramLimits, metric: str) -> dict[str, Any]:
    """Per cent of the Python programs whose tests reach their end under `metric`, and the outcome of each as
    `details`."""
    return judged(programs, lambda program: tests_pass(program, limits), metric)


def judged(
    programs: Sequence[Program], judge: Callable[[Program], tuple[bool, Outcome]], metric: str
) -> dict[str, Any]:
    """Per cent of the programs that `judge` passes under `metric`, and the outcome of each as `details`."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(judge, programs))
    details = {
        str(i): {
            "is_correct": passed,
            "result": end.detail or ("" if passed else "ended before its tests"),
            "program": str(program),
            "isolation": end.isolation,
        }
        for i, (program, (passed, end)) in enumerate(zip(programs, outcomes, strict=True))
    }
    return {metric: 100 * sum(passed for passed, _ in outcomes) / max(len(programs), 1), "details": details}


def tests_pass(tested: ProgramAndTests, limits: ProgramLimits) -> tuple[bool, Outcome]:
    """Whether the tests have run to their end, and the outcome. Neither the program's output nor an early exit with
    code 0 counts; neither its file nor its standard input holds the tests (`separate_tests.py`)."""
    word = secrets.token_hex(16)
    order = json.dumps({"tests": tested.tests, "word": word})
    outcome = run_in_sandbox(tested.program, order, limits, _WITH_TESTS)
    return outcome.passed and word in outcome.stdout.splitlines(), outcome
