"""A document as a row, and why it falls."""

from dataclasses import dataclass

from ilm_ray.base.jsonl import Row


@dataclass(frozen=True)
class Verdict:
    """Why a document falls."""

    rule: str
    value: float | str
    threshold: float | None


def sized(text: str) -> Row:
    """The columns that follow from a text."""
    return {"text": text, "chars": len(text), "bytes": len(text.encode("utf-8", "replace"))}


def judged(row: Row, verdict: Verdict | None) -> Row:
    """`row`, with the reason why it falls if it does."""
    if verdict is None:
        return row
    return row | {"drop_rule": verdict.rule, "drop_value": verdict.value, "threshold": verdict.threshold}
