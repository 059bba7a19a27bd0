"""People's labels of comparisons (see `comparisons.py`): a label is the comparison and "label": a, b or tie."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import JsonObject
from ilm_ray.base.rows import read_rows

LONGEST_ID = 256  # characters
LABELS = ("a", "b", "tie")
HELDOUT_SHARE = 0.1


def read_comparisons(path: Path) -> list[JsonObject]:
    """Raises UserError naming the line at fault."""
    rows = read_rows(path, ("id", "domain", "prompt", "a", "b"), "comparisons")
    for number, row in enumerate(rows, 1):
        texts = all(isinstance(row[key], str) for key in ("id", "domain", "a", "b"))
        if not texts or not _is_conversation(row["prompt"]):
            raise UserError(
                f"{path} line {number}: id, domain, a and b must be texts, prompt a list of messages; correct it"
            )
        # It must come back from a form of the label page, and be the same once a label has been written.
        if len(row["id"]) > LONGEST_ID or not _is_utf8(row["id"]):
            raise UserError(
                f"{path} line {number}: an id has at most {LONGEST_ID} characters and no half one (a lone surrogate); "
                "correct it"
            )
    if len({row["id"] for row in rows}) < len(rows):
        raise UserError(f"{path} has the same id twice; give every comparison one of its own")
    return rows


def read_labels(path: Path) -> list[JsonObject]:
    """Labelled comparisons. Raises UserError naming the line at fault."""
    rows = read_comparisons(path)
    for number, row in enumerate(rows, 1):
        if row.get("label") not in LABELS:
            raise UserError(f'{path} line {number}: "label" must be one of {", ".join(LABELS)}; correct the file')
    return rows


def labelled_pairs(labels: Sequence[JsonObject]) -> list[JsonObject]:
    """Labels in the form of `reward.data`; a tie says nothing to a ranking loss and is left out."""
    pairs = []
    for row in labels:
        if row["label"] == "tie":
            continue
        chosen, rejected = (row["a"], row["b"]) if row["label"] == "a" else (row["b"], row["a"])
        share = int.from_bytes(hashlib.sha256(str(row["prompt"]).encode()).digest()[:6], "big") / 2**48
        split = "heldout" if share < HELDOUT_SHARE else "train"
        pair = {"domain": row["domain"], "prompt": row["prompt"], "chosen": chosen, "rejected": rejected}
        pairs.append({"id": f"label-{row['id']}", **pair, "split": split})
    return pairs


def _is_utf8(text: str) -> bool:
    return text.encode("utf-8", "replace").decode() == text


def _is_conversation(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in prompt
    )
