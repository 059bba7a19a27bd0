"""Verifiers of form and result: what is right, what is not, and what must not be evaluated."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.evaluation.verifiers.expressions import parse_expression, parse_number
from ilm_ray.evaluation.verifiers.mathematics import mathematics, result_of, same
from ilm_ray.evaluation.verifiers.named import parts_of
from ilm_ray.evaluation.verifiers.rules import form, length


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (r"First \boxed{1}, no: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"It is 3 \boxed{4} or 5 \boxed{6", "4"),  # one that is not closed is none
        ("So 12 + 30 = 42.", "42"),
        ("It costs $1,234.50.", "1,234.50"),
        ("#### -7", "-7"),
        ("2/3 of v2", "2/3"),
        ("I do not know", None),
    ],
)
def test_the_result_is_the_last_box_else_the_last_number(answer: str, found: str | None) -> None:
    assert result_of(answer) == found


EQUAL = [
    ("0.5", r"\frac{1}{2}"), ("1,234", "1234"), ("50%", "0.5"), (r"\frac12", "1/2"), (r"2\sqrt{2}", r"\sqrt{8}"),
    ("x^2+2x+1", "(x+1)^2"), ("x = 5", "5"), (r"\dfrac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"), ("(1, 2)", "(1,2)"),
    (r"2\pi", r"\pi \cdot 2"), (r"\sin(x)^2 + \cos(x)^2", "1"), ("4!", "24"), (r"90^\circ", r"90^\circ"),
    (r"\text{yes}", r"\text{yes}"), ("[1, 3)", "[1,3)"), (r"\sqrt[3]{27}", "3"), ("-2^2", "-4"), ("2(3+4)", "14"),
]  # fmt: skip
DIFFERENT = [
    ("0.33", "1/3"), ("x+1", "x-1"), ("(1, 2)", "(2, 1)"), ("(1, 2)", "[1, 2]"), ("12", "1,2,3"), ("yes", "no"),
    ("10^10", "10^9"), (r"\sqrt{2}", "1.414"), ("1/0", "0"), ("", "0"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "reference"), EQUAL)
def test_equal_results(found: str, reference: str) -> None:
    assert same(found, reference) and same(reference, found)


@pytest.mark.parametrize(("found", "reference"), DIFFERENT)
def test_different_results(found: str, reference: str) -> None:
    assert not same(found, reference) and not same(reference, found)


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_numbers_are_equal_where_fractions_are(a: Fraction, b: Fraction) -> None:
    assert same(str(a), str(b)) == (a == b) and same(rf"\frac{{{a.numerator}}}{{{a.denominator}}}", str(a))
    assert parse_number(str(a)) == a


@given(st.integers(0, 10**6))
def test_expressions_have_the_values_that_python_gives_them(seed: int) -> None:
    rng = random.Random(seed)

    def grown(depth: int) -> str:
        if depth == 0 or rng.random() < 0.2:
            return str(rng.randint(1, 9))
        kind = rng.choice(["+", "-", "*", "/", "**"])
        if kind == "**":
            return f"({grown(depth - 1)})**{rng.randint(0, 3)}"
        return f"({grown(depth - 1)}){kind}({grown(depth - 1)})"

    text = grown(3)
    try:
        expected = eval(text, {}, {})  # of our own making
    except ZeroDivisionError:
        return
    parsed = parse_expression(text)
    assert parsed is not None and float(parsed) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(
    "attack",
    [
        "__import__('os').system('touch /tmp/owned')",
        "9**9**9**9**9",
        "9^{9^{9^{9}}}",
        "((((9^64)^64)^64)^64)",
        "99999999999!",
        "(" * 5000 + "1" + ")" * 5000,
        "(" * 120 + "1" + ")" * 120,
        "2^" * 120 + "2",
        "1" * 100_000,
        "exec",
        "x.__class__",
        "lambda: 0",
        r"\frac{1}{0}",
        r"\sqrt[0]{2}",
        "0^{-1}",
        "٣",
        "x" * 300,
        "(x+y+z)^64*(x+y+z)^64",
    ],
)
def test_what_attacks_the_parser_is_wrong_at_once(attack: str) -> None:
    assert mathematics([], rf"\boxed{{{attack}}}", {"answer": "7"}) == 0.0


def test_form_length_and_results_of_functions() -> None:
    assert form([], "<a>x\ny</a>\n", {}, r"<a>.*</a>") == 1.0 and form([], "x<a></a>", {}, r"<a>.*</a>") == 0.0
    assert [length([], text, {}, least=2, most=3) for text in ("a", "ab", "abc ", "abcd")] == [0.0, 1.0, 1.0, 0.0]
    assert parts_of(True) == {"": 1.0} and parts_of({"a": 1, "b": 0.5}) == {"a": 1.0, "b": 0.5}
    for wrong in (float("nan"), {"a": float("inf")}, {}, {str(i): 1.0 for i in range(100)}, {"\ud800": 1.0}, {1: 2.0}):
        with pytest.raises(ValueError):
            parts_of(wrong)
    for wrong in (None, "1", {"a": "b"}, [1.0]):
        with pytest.raises(TypeError):
            parts_of(wrong)
