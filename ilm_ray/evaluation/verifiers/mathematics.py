"""Compares the result of an answer, its last boxed expression or last number, with a reference."""

import cmath
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ilm_ray.evaluation.verifiers.expressions import MOST_CHARS, parse_expression, parse_number

if TYPE_CHECKING:
    import sympy

POINTS, DIGITS = (31, 113, 401), 25  # of symbols, over 97
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def mathematics(prompt: Sequence[dict[str, Any]], answer: str, metadata: dict[str, Any]) -> float:
    """1.0 where the answer's result equals `metadata["answer"]`, else 0.0. Raises KeyError where there is no reference.

    The comparison of two expressions may take long; the caller sets the time limit.
    """
    found = result_of(answer)
    return 0.0 if found is None else float(same(found, str(metadata["answer"])))


def result_of(answer: str) -> str | None:
    """The content of the last \\boxed{...}, else the last number; None where there is neither."""
    boxes = list(_BOXED.finditer(answer))
    for box in reversed(boxes):
        depth, start = 1, box.end()
        for at in range(start, len(answer)):
            depth += {"{": 1, "}": -1}.get(answer[at], 0)
            if not depth:
                return answer[start:at].strip()
    numbers = _NUMBER.findall(answer)
    return numbers[-1] if numbers else None


def same(found: str, reference: str) -> bool:
    """Equality as numbers, as expressions, or, where one is neither, as texts without spaces; lists item by item."""
    number, wanted = parse_number(found), parse_number(reference)
    if number is not None and wanted is not None:
        return number == wanted
    if max(len(found), len(reference)) > MOST_CHARS:
        return found.strip() == reference.strip()
    items, others = _items(found), _items(reference)
    if len(items) == len(others) > 1 and found.strip()[:1] == reference.strip()[:1]:
        return all(same(a, b) for a, b in zip(items, others, strict=True))
    first, second = parse_expression(found), parse_expression(reference)
    if first is None or second is None:
        return re.sub(r"\s+", "", found) == re.sub(r"\s+", "", reference)
    if first == second:
        return True
    # Most wrong answers are told from the right one by their values, which takes no time.
    return not _differ(first, second) and first.equals(second) is not False


def _differ(first: "sympy.Expr", second: "sympy.Expr") -> bool:
    """Whether the values of two expressions differ at one of POINTS, to DIGITS."""
    import sympy

    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    for point in POINTS:
        values = {symbol: sympy.Rational(point + 10 * n, 97) for n, symbol in enumerate(symbols)}
        try:
            a, b = (complex(expression.evalf(DIGITS, subs=values)) for expression in (first, second))
        except (TypeError, OverflowError):  # no number there
            continue
        if cmath.isfinite(a) and cmath.isfinite(b) and abs(a - b) > 1e-9 * max(1.0, abs(a), abs(b)):
            return True
    return False


def _items(text: str) -> list[str]:
    """The parts of a list, pair or set between commas that no bracket holds; a number's own commas are none."""
    inner = re.sub(r"^[\[({]|[\])}]$", "", text.strip().removeprefix("\\{").removesuffix("\\}"))
    if parse_number(inner) is not None:
        return [inner]
    parts, depth = [""], 0
    for char in inner:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]
