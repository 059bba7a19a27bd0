"""Pylint's score of Python files, of the checks that tell broken code (report section 4.4: a Pylint filter).

Style is left out: the report finds it no usable signal (section 3.2). Imports are not followed, so the score depends on
the file alone and not on installed packages. A child does the work, with a limit of CPU time and memory for each file
that the kernel keeps: the code comes from strangers.
"""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

CPU_S = 10.0  # a file
MEMORY_BYTES = 1 << 30
_WALL_FACTOR = 10
_CHECKS = (
    "syntax-error", "undefined-variable", "used-before-assignment", "undefined-all-variable", "function-redefined",
    "return-outside-function", "yield-outside-function", "not-in-loop", "return-in-init", "duplicate-argument-name",
    "nonexistent-operator", "no-method-argument", "bad-except-order", "duplicate-except", "lost-exception",
    "too-many-format-args", "too-few-format-args", "bad-string-format-type", "unused-format-string-key",
    "unreachable", "dangerous-default-value", "pointless-statement", "expression-not-assigned", "duplicate-key",
    "self-assigning-variable", "assert-on-tuple", "undefined-loop-variable",
)  # fmt: skip
_STAR = re.compile(r"^[ \t]*from[ \t]+\S+[ \t]+import[ \t]+\*", re.M)
# Names may come from a star import, which is not followed.
_UNKNOWN_WITH_STAR = frozenset({"undefined-variable", "undefined-all-variable"})


class Lint(NamedTuple):
    """A file's score from 0 to 10, None where pylint itself failed on it, and the kinds of messages behind it."""

    score: float | None
    kinds: tuple[str, ...]


def lint_files(texts: Sequence[str], cpu_s: float = CPU_S) -> list[Lint]:
    """The scores of Python files. One that takes too long has 0."""
    lints = list[Lint]()
    while len(lints) < len(texts):
        waiting = list(texts[len(lints) :])
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(cpu_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[4]), *sys.path])},
        )
        try:
            out, _ = child.communicate(json.dumps(waiting).encode(), timeout=_WALL_FACTOR * cpu_s * len(waiting) + 60)
        except subprocess.TimeoutExpired:
            child.kill()
            out, _ = child.communicate()
        rows = [json.loads(line) for line in out.decode().splitlines(keepends=True) if line.endswith("\n")]
        lints += [Lint(score, tuple(kinds)) for score, kinds in rows]
        if len(rows) < len(waiting):  # the child ended at the file that comes next
            lints.append(Lint(0.0, ("timeout",)) if child.returncode == -signal.SIGPROF else Lint(None, ("crash",)))
    return lints


def score(statements: int, errors: int, warnings: int) -> float:
    """Pylint's own formula, for errors and warnings alone; 0 for a file that cannot be read."""
    if statements == 0:
        return 0.0 if errors else 10.0
    return round(max(0.0, 10.0 - 10.0 * (5 * errors + warnings) / statements), 4)


def _serve(cpu_s: float) -> None:
    """Lint the texts on stdin, one line of JSON each as soon as it is known."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    texts = json.loads(sys.stdin.buffer.read())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYLINTHOME"] = folder
        linter = _linter()
        answers, sys.stdout = sys.stdout, sys.stderr  # pylint prints what it thinks of a crash
        for number, text in enumerate(texts):
            path = Path(folder, f"module_{number}.py")
            path.write_bytes(text.encode("utf-8", "replace"))
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            answer = _lint(linter, path, text)
            signal.setitimer(signal.ITIMER_PROF, 0)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _linter() -> Any:
    from astroid.exceptions import AstroidImportError
    from astroid.manager import AstroidManager
    from pylint.lint import PyLinter
    from pylint.reporters import CollectingReporter

    followed = AstroidManager.ast_from_module_name

    def builtins_alone(self: Any, modname: str | None, *more: Any, **named: Any) -> Any:
        if modname != "builtins":
            raise AstroidImportError("imports are not followed", modname=modname)
        return followed(self, modname, *more, **named)

    AstroidManager.ast_from_module_name = builtins_alone  # pylint has no switch for it
    linter: Any = PyLinter(reporter=CollectingReporter())
    linter.load_default_plugins()
    # Comments that speak to pylint are not heard: a file does not decide what it is asked, and one for an older pylint
    # would itself count as an error.
    linter.process_tokens = lambda tokens: None
    linter.disable("all")
    for check in _CHECKS:
        linter.enable(check)
    return linter


def _lint(linter: Any, path: Path, text: str) -> tuple[float | None, list[str]]:
    from astroid.manager import AstroidManager

    linter.reporter.messages = []
    try:
        linter.check([str(path)])
    except Exception:  # a bug of pylint's is no fault of the file
        return None, ["crash"]
    finally:
        cache = AstroidManager().astroid_cache
        for name in cache.keys() - {"builtins"}:  # what one file holds must not reach the next
            del cache[name]
    ignored = _UNKNOWN_WITH_STAR if _STAR.search(text) else frozenset()
    messages = [message for message in linter.reporter.messages if message.symbol not in ignored]
    if any(message.category == "fatal" for message in messages):
        return None, ["crash"]
    errors = sum(message.category == "error" for message in messages)
    value = score(linter.stats.statement, errors, len(messages) - errors)
    return value, sorted({message.symbol for message in messages})


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        _serve(float(sys.argv[1]))
