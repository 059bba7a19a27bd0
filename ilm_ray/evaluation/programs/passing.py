"""Pass rates of model-written programs. A program passes when the sandbox runs it to its last line."""

import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ilm_ray.evaluation.programs.sandbox import Outcome, ProgramLimits, run_in_sandbox

AT_ONCE = 2


def pass_rate(programs: Sequence[str], limits: ProgramLimits, metric: str) -> dict[str, Any]:
    """Per cent of the Python programs that reach their end under `metric`, and the outcome of each as `details`."""
    return judged(programs, lambda program: reaches_end(program, limits), metric)


def judged(programs: Sequence[str], judge: Callable[[str], tuple[bool, Outcome]], metric: str) -> dict[str, Any]:
    """Per cent of the programs that `judge` passes under `metric`, and the outcome of each as `details`."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(judge, programs))
    details = {
        str(i): {"is_correct": passed, "result": outcome.detail, "program": program, "isolation": outcome.isolation}
        for i, (program, (passed, outcome)) in enumerate(zip(programs, outcomes, strict=True))
    }
    return {metric: 100 * sum(passed for passed, _ in outcomes) / max(len(programs), 1), "details": details}


def reaches_end(program: str, limits: ProgramLimits) -> tuple[bool, Outcome]:
    """An exit before the tests, with code 0, is no pass: the last line must have been printed."""
    word = secrets.token_hex(16)
    outcome = run_in_sandbox(f"{program}\nprint('\\n{word}')\n", "", limits)
    return outcome.passed and outcome.stdout.rstrip().endswith(word), outcome
