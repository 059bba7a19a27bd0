"""HumanEval-X: programs put together and judged as the benchmark's authors do (github.com/THUDM/CodeGeeX,
codegeex/benchmark), in five languages, in the sandbox.

Theirs are the order of prompt, answer and test, the imports beside, the compilers' options, and the criterion of a
pass. Ours is a last line, which a program that passes must have printed: leaving early with code 0 is no pass.
"""

import secrets
import socket
from collections.abc import Mapping
from dataclasses import replace

from ilm_ray.evaluation.programs.humaneval_x_packages import BOOST_ANY, GO_ASSERT, GO_MODULE, JS_MD5
from ilm_ray.evaluation.programs.passing import ProgramAndTests, tests_pass
from ilm_ray.evaluation.programs.sandbox import TOOLCHAINS, Outcome, ProgramLimits, Toolchain, missing, run_in_sandbox

RUNNING = ProgramLimits(cpu_s=10, wall_s=30.0)  # the authors allow 5 s; a busy machine's virtual machines start slowly
COMPILING = ProgramLimits(cpu_s=60, wall_s=120.0, memory_bytes=2 * 2**30, disk_bytes=512 * 2**20, files=16384)
TESTS = "# @the@tests@"  # stands in a program of Python between answer and tests
END = "@the@end@"  # stands in a program for the word that it must print

_PYTHON = (
    "import math", "import re", "import sys", "import copy", "import datetime", "import itertools",
    "import collections", "import heapq", "import statistics", "import functools", "import hashlib", "import numpy",
    "import numpy as np", "import string", "from typing import *", "from collections import *",
)  # fmt: skip
_CPP = tuple(
    f"#include<{name}>"
    for name in ("stdlib.h", "algorithm", "math.h", "stdio.h", "vector", "string", "climits", "cstring", "iostream")
)
_GO = ("math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort", "math/rand", "crypto/md5")
_COMPILED = "/tmp/main"  # the sandbox's name for what a compiler makes
_TOOLCHAINS = {
    "python": TOOLCHAINS["python"],  # run by `tests_pass`
    "cpp": Toolchain(
        "main.cpp",
        (("g++", "-std=c++11", "-idirafter", ".", "-o", "main", "main.cpp"), (_COMPILED,)),
        more=(("boost/any.hpp", BOOST_ANY),),  # behind the system's own, where that is installed
    ),
    "java": TOOLCHAINS["java"],
    "js": replace(TOOLCHAINS["javascript"], more=(("node_modules/js-md5/index.js", JS_MD5),)),
    "go": Toolchain(
        "main_test.go",
        (("go", "test", "-c", "-o", "main", "."), (_COMPILED,)),
        more=(
            ("go.mod", GO_MODULE),
            ("testify/go.mod", "module github.com/stretchr/testify\n"),
            ("testify/assert/assert.go", GO_ASSERT),
        ),
    ),
}
NAMES = tuple(_TOOLCHAINS)


def lacking(language: str) -> str | None:
    """The reason why this machine cannot judge programs of a language, None where it can."""
    reason = missing(_TOOLCHAINS[language])
    return f"{reason} on {socket.gethostname()}: install it" if reason else None


def assemble(language: str, problem: Mapping[str, str], answer: str) -> str:
    """The whole program of a problem (a row of the published file) and an answer, which goes on after the prompt."""
    prompt, test = problem["prompt"], problem["test"]
    if language == "python":
        body = "\n".join(_while_indented(answer))
        return "\n".join([*_PYTHON, f"{prompt}{body}", TESTS, test])
    if language == "cpp":
        included = [line for line in _CPP if line not in prompt]
        return "\n".join([*included, f"{prompt}{answer}", _before_last(test, 1, f'puts("\\n{END}");')])
    if language == "java":
        return f"{prompt}{answer}\n" + _before_last(test, 2, f'System.out.println("\\n{END}");')
    if language == "js":
        return f"{prompt}{answer}\n{test}\nconsole.log('\\n{END}')\n"
    setup = problem["test_setup"]
    used = [f'import "{name}"' for name in _GO if name not in setup and f"{name.rpartition('/')[2]}." in answer]
    rest = prompt.replace(problem["import"], "")
    return "\n".join([setup, *used, f"{rest}{answer}", _before_last(test, 1, f'println("\\n{END}")\n')])


def judge(
    language: str, program: str, running: ProgramLimits = RUNNING, compiling: ProgramLimits = COMPILING
) -> tuple[bool, Outcome]:
    """Whether a program of `assemble` passes, and how it ended. JavaScript's assertions only print: there any output
    beside the last line is a failure, as the authors have it."""
    if language == "python":
        solution, _, tests = program.partition(f"\n{TESTS}\n")
        return tests_pass(ProgramAndTests(f"{solution}\n", tests), running)
    word, toolchain = secrets.token_hex(16), _TOOLCHAINS[language]
    if "<openssl/" in program:  # one problem asks for MD5
        toolchain = replace(toolchain, steps=((*toolchain.steps[0], "-lcrypto"), toolchain.steps[1]))
    outcome = run_in_sandbox(program.replace(END, word), "", running, toolchain, compiling)
    if not outcome.passed:
        return False, outcome
    output = outcome.stderr if language == "go" else outcome.stdout  # Go has a print without an import, to stderr
    if language == "js" and (more := f"{outcome.stderr}{output.replace(word, '')}".strip()):
        return False, replace(outcome, detail=f"it said: {more[:300]}")
    ended = output.rstrip().endswith(word)
    return ended, outcome if ended else replace(outcome, detail="it ended before its tests did")


def _while_indented(answer: str) -> list[str]:
    """The lines of a function's body, up to the first that is none."""
    lines = answer.split("\n")
    outside = (number for number, line in enumerate(lines) if line.strip() and line[0] not in " \t")
    return lines[: next(outside, len(lines))]


def _before_last(test: str, count: int, statement: str) -> str:
    """`statement` set in front of the last `count` closing braces, where the test's main function ends."""
    at = len(test)
    for _ in range(count):
        at = test.rindex("}", 0, at)
    return f"{test[:at]}\n{statement}\n{test[at:]}"
