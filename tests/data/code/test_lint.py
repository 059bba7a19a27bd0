"""Lint scores: broken code apart from working code, each file by itself, whatever it does to the linter."""

import sysconfig
from pathlib import Path

import pytest

from ilm_ray.data.code.files.lint import lint_files, score

GOOD = '"""Adds."""\n\nimport missing_package\n\n\ndef total(values):\n    return missing_package.add(sum(values), 1)\n'
BROKEN = "def total(values):\n    return summ(valeus)\n"


@pytest.mark.process
def test_broken_files_score_low_and_working_ones_high() -> None:
    lints = lint_files(
        [GOOD, BROKEN, "def f(:\n", "from missing import *\nprint(anything)\n", "", "class A:\n    return 1\n"]
    )
    assert [lint.score for lint in lints] == [10.0, 0.0, 0.0, 10.0, 10.0, 0.0]
    assert lints[1].kinds == ("undefined-variable",)
    assert lints[2].kinds == ("syntax-error",)


@pytest.mark.process
def test_comments_for_pylint_change_nothing() -> None:
    comments = ("skip-file", "disable=undefined-variable", "disable-msg=W0142", "disable=no-such-check", "unheard of")
    texts = [f"# pylint: {comment}\n{text}" for comment in comments for text in (GOOD, BROKEN)]
    assert lint_files(texts) == lint_files([GOOD, BROKEN]) * len(comments)


@pytest.mark.process
def test_a_score_does_not_depend_on_the_files_beside() -> None:
    texts = [BROKEN, GOOD, "import module_0\nprint(module_0.total)\n", GOOD]
    together = lint_files(texts)
    assert together == [lint_files([text])[0] for text in texts]
    assert lint_files(texts[::-1]) == together[::-1]


@pytest.mark.process
def test_a_file_that_takes_too_long_falls_and_the_others_do_not() -> None:
    # So many branches that the flow analysis does not end within a second.
    slow = "def f(a):\n" + "".join(f"    if a == {n}:\n        x{n} = {n}\n    print(x{n})\n" for n in range(4000))
    first, second, third = lint_files([GOOD, slow, GOOD], cpu_s=1.0)
    assert (first.score, third.score) == (10.0, 10.0)
    assert second == (0.0, ("timeout",))


@pytest.mark.process
def test_the_standard_library_is_not_broken() -> None:
    paths = sorted(Path(sysconfig.get_paths()["stdlib"], "json").glob("*.py"))
    assert all(lint.score is None or lint.score > 9 for lint in lint_files([path.read_text() for path in paths]))


@pytest.mark.parametrize(
    ("statements", "errors", "warnings", "expected"), [(10, 1, 0, 5.0), (10, 0, 2, 8.0), (1, 9, 9, 0)]
)
def test_the_formula_is_pylints(statements: int, errors: int, warnings: int, expected: float) -> None:
    from pylint.lint.pylinter import PyLinter

    default = PyLinter().config.evaluation
    named = {"error": errors, "warning": warnings, "refactor": 0, "convention": 0, "fatal": 0, "statement": statements}
    assert score(statements, errors, warnings) == pytest.approx(eval(default, {}, named)) == expected
