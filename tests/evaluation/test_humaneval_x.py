"""HumanEval-X: the published solutions pass, wrong ones do not, and what would exhaust a compiler or a machine is a
failed program with a reason, in bounded time."""

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ilm_ray.evaluation.programs.humaneval_x import COMPILING, NAMES, assemble, judge, lacking
from ilm_ray.evaluation.programs.sandbox import Outcome, ProgramLimits, isolation
from ilm_ray.evaluation.programs.sandbox_child import NAMESPACES

Problem = dict[str, Any]
SHORT = ProgramLimits(cpu_s=2, wall_s=20.0)
COMPILER = ProgramLimits(cpu_s=5, wall_s=30.0, memory_bytes=2**29, disk_bytes=64 * 2**20)
# The whole answer's code, where a function of these names returns nothing that a test wants.
WRONG = {
    "python": "    return None\n",
    "cpp": "    return false;\n}\n",
    "java": "        return false;\n    }\n}\n",
    "js": "  return null\n}\n",
    "go": "    return false\n}\n",
}
EARLY = {
    "python": "    import os\n    os._exit(0)\n",
    "cpp": "    exit(0);\n}\n",
    "java": "        System.exit(0);\n        return false;\n    }\n}\n",
    "js": "  process.exit(0)\n}\n",
}


def problems(folder: Path, language: str) -> list[Problem]:
    packed = (folder / f"eval/humaneval_x/humanevalx_{language}.jsonl.gz").read_bytes()
    return [json.loads(line) for line in gzip.decompress(packed).decode().splitlines()]


@pytest.fixture(params=NAMES)
def language(request: pytest.FixtureRequest) -> Iterator[str]:
    if lacking(request.param):
        pytest.skip(str(lacking(request.param)))
    yield request.param


def _answered(language: str, problem: Problem, answer: str) -> tuple[bool, Outcome]:
    return judge(language, assemble(language, problem, answer))


@pytest.mark.process
def test_published_solutions_pass_and_wrong_ones_fail(language: str, shared_data: Path) -> None:
    first, *_, last = problems(shared_data, language)[:163]
    for problem in (first, last):
        passed, outcome = _answered(language, problem, problem["canonical_solution"])
        assert passed, (problem["task_id"], outcome)
    assert not _answered(language, first, WRONG[language])[0]
    if language in EARLY:
        passed, outcome = _answered(language, first, EARLY[language])
        assert not passed and outcome.exit_code == 0


def test_a_language_without_a_compiler_is_named() -> None:
    absent = [name for name in NAMES if lacking(name)]
    if not absent:
        pytest.skip("every compiler is installed here")
    reason = lacking(absent[0])
    assert reason is not None and "is not installed" in reason
    assert reason.endswith(f"on {socket.gethostname()}: install it")


BOMBS = {
    "endless template": "#include <utility>\ntemplate<int N, class T> struct S { static constexpr int v = "
    "S<N - 1, std::pair<T, int>>::v + S<N - 1, std::pair<int, T>>::v; };\n"
    "template<class T> struct S<0, T> { static constexpr int v = 1; };\nstatic int x = S<26, int>::v;\n",
    "endless include": '#include "/dev/urandom"\n',
    "endless zeros": '#include "/dev/zero"\n',
    "huge initialiser": "int x[1 << 28] = {1};\n",
    "includes itself": '#include "main.cpp"\n#include "main.cpp"\n',
}


@pytest.mark.process
@pytest.mark.skipif(isolation() != NAMESPACES, reason="needs a sandbox with a file tree of its own")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_compiler_bomb_is_a_failed_program_in_bounded_time(bomb: str, shared_data: Path) -> None:
    if lacking("cpp"):
        pytest.skip(str(lacking("cpp")))
    first, before, started = problems(shared_data, "cpp")[0], _left(), time.monotonic()
    program = BOMBS[bomb] + assemble("cpp", first, first["canonical_solution"])
    passed, outcome = judge("cpp", program, SHORT, COMPILER)
    assert not passed and outcome.reason in ("compile", "memory", "cpu", "wall", "output") and outcome.detail, outcome
    assert time.monotonic() - started < 100 and outcome.peak_bytes < 2**30
    assert _survivors(before) == set()


@pytest.mark.process
@pytest.mark.skipif(isolation() != NAMESPACES, reason="needs a sandbox with processes of its own")
def test_an_endless_loop_and_a_fork_bomb_are_failed_programs(shared_data: Path) -> None:
    if lacking("cpp"):
        pytest.skip(str(lacking("cpp")))
    first, before = problems(shared_data, "cpp")[0], _left()
    loop = assemble("cpp", first, "    for (volatile int i = 0;; i++) {}\n}\n")
    assert judge("cpp", loop, ProgramLimits(cpu_s=1, wall_s=20.0))[1].reason == "cpu"
    forks = "#include <unistd.h>\n" + assemble("cpp", first, "    for (;;) fork();\n}\n")
    passed, outcome = judge("cpp", forks, ProgramLimits(cpu_s=1, wall_s=2.0, processes=16))
    assert not passed and outcome.reason in ("wall", "cpu"), outcome
    assert _survivors(before) == set()


def _left() -> set[str]:
    """Process ids on this machine of what a sandbox started, by whichever test."""
    numbers = set[str]()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile
            if folder.name.isdigit() and b"sandbox_child" in (folder / "cmdline").read_bytes():
                numbers.add(folder.name)
    return numbers


def _survivors(before: set[str]) -> set[str]:
    """Those that are new and do not end within a minute: the sandboxes of tests that run beside this one do."""
    new, until = _left() - before, time.monotonic() + 60
    while new and time.monotonic() < until:
        time.sleep(0.2)
        new &= _left()
    return new


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_published_solution_passes(language: str, shared_data: Path) -> None:
    def passes(problem: Problem) -> tuple[bool, Outcome]:
        return judge(language, assemble(language, problem, problem["canonical_solution"]), compiling=COMPILING)

    published = problems(shared_data, language)
    with ThreadPoolExecutor(2) as pool:
        failed = [
            (problem["task_id"], outcome.reason, outcome.detail)
            for problem, (passed, outcome) in zip(published, pool.map(passes, published), strict=True)
            if not passed
        ]
    assert len(published) == 164 and failed == []
