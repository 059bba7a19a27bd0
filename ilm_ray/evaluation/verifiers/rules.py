"""Verifiers of form and length, of programs with tests, and the opinion of a language model."""

import re
from collections.abc import Sequence
from typing import Any

from ilm_ray.base.endpoint import ask
from ilm_ray.evaluation.programs.passing import ProgramAndTests, tests_pass
from ilm_ray.evaluation.programs.sandbox import ProgramLimits

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BEST = 10
_JUDGE = (
    "You grade an assistant's answer to a request: right, to the point, safe, well written. Length, flattery and "
    f"decoration are no merits. Reply with one whole number from 0 to {_BEST}."
)

Messages = Sequence[dict[str, Any]]


def form(prompt: Messages, answer: str, metadata: dict[str, Any], pattern: str) -> float:
    """1.0 where the whole answer, spaces around it aside, matches a regular expression; `.` is a newline too."""
    return float(re.fullmatch(pattern, answer.strip(), re.DOTALL) is not None)


def length(prompt: Messages, answer: str, metadata: dict[str, Any], least: int = 0, most: int = 1 << 30) -> float:
    """1.0 where the answer has from `least` to `most` characters."""
    return float(least <= len(answer.strip()) <= most)


def code(prompt: Messages, answer: str, metadata: dict[str, Any], wall_s: float = 8.0, memory_mb: int = 512) -> float:
    """1.0 where the answer's Python, its last block or all of it, passes `metadata["tests"]`, run behind it.

    In the sandbox (`programs/sandbox.py`). Raises KeyError where there are no tests, SandboxError where it fails.
    """
    blocks = _BLOCK.findall(answer)
    limits = ProgramLimits(cpu_s=max(1, int(wall_s)), wall_s=wall_s, memory_bytes=memory_mb * 2**20)
    passed, _ = tests_pass(ProgramAndTests(blocks[-1] if blocks else answer, metadata["tests"]), limits)
    return float(passed)


def judge(
    prompt: Messages,
    answer: str,
    metadata: dict[str, Any],
    url: str,
    model: str,
    system: str = _JUDGE,
    wait_s: float = 8.0,
) -> float:
    """A grade from 0 to 1 by a model behind an OpenAI-compatible endpoint, which is sent prompt and answer.

    Raises NoAnswer where it does not reply, ValueError where the reply is no grade. Its text is read as a number alone.
    """
    request = "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in prompt)
    reply = ask(url, model, system, f"Request:\n{request}\n\nAnswer:\n{answer}", 4, wait_s).strip()
    if not re.fullmatch(r"\d{1,2}", reply) or int(reply) > _BEST:
        raise ValueError(f"the judge's reply is no number from 0 to {_BEST}: {reply[:40]!r}")
    return int(reply) / _BEST
