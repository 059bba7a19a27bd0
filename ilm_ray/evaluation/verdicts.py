"""Counts of a judge's verdicts: comparisons in both orders, unreadable verdicts.

Standard library only: the evaluation environment imports this too.
"""

from collections.abc import Sequence
from typing import Any

TIE, FIRST, SECOND = 0, 1, 2  # which of the two answers shown is the better one


def both_orders(verdicts: Sequence[int | None]) -> dict[str, int]:
    """Counts of comparisons whose verdict does not depend on the order of the answers.

    verdicts: TIE, FIRST, SECOND or, unreadable, None; the second half is the first with its answers exchanged, in the
    same order of questions. `pairs`: questions with two readable verdicts; `same`: those of them where both name the
    same answer, or a tie. Raises ValueError where the verdicts do not come in pairs.
    """
    if len(verdicts) % 2:
        raise ValueError(f"{len(verdicts)} verdicts are no pairs")
    half = len(verdicts) // 2
    exchanged = {TIE: TIE, FIRST: SECOND, SECOND: FIRST}
    read = [(a, b) for a, b in zip(verdicts[:half], verdicts[half:], strict=True) if a is not None and b is not None]
    return {"pairs": len(read), "same": sum(a == exchanged[b] for a, b in read)}


def judged_whole(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sum of several sets' counts ({by, verdicts, unread, ties, pairs, same, cut}); `consistency`: per cent of the
    pairs that are the same, None without pairs."""
    whole: dict[str, Any] = {"by": parts[0]["by"]}
    whole |= {key: sum(part[key] for part in parts) for key in ("verdicts", "unread", "ties", "pairs", "same", "cut")}
    whole["consistency"] = round(100 * whole["same"] / whole["pairs"], 2) if whole["pairs"] else None
    return whole
