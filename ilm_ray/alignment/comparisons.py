"""The slow path (report section 4.2.2): answers of SFT, early and late PPO in pairs for people, and what they said.

A comparison: {"id", "round", "domain", "prompt": messages, "a": text, "b": text, "a_from", "b_from": sft, early or
late}. A label is the comparison and "label": a, b or tie.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ilm_ray.alignment.hacking import WINDOW, Answer
from ilm_ray.alignment.rollouts import windows
from ilm_ray.alignment.sft import read_rows
from ilm_ray.corpus.jsonl import Row
from ilm_ray.errors import UserError

LABELS = ("a", "b", "tie")
FROM = ("sft", "early", "late")
HELDOUT_SHARE = 0.1


def comparisons(
    answers: Sequence[Answer], prompts: Mapping[str, Any], count: int, round_number: int, seed: int
) -> list[Row]:
    """At most `count` comparisons: of a prompt's answers by SFT, early and late PPO every two that differ.

    Prompts come in an order drawn by `seed`; which of the two is `a` is drawn too. SFT's are those of weight version 0.
    """
    early, late = windows(answers, WINDOW)
    sides = [[a for a in answers if a.version == 0], early, late]
    by_prompt: dict[str, dict[str, str]] = {}
    domains = {a.prompt: a.domain for a in answers}
    for name, side in zip(FROM, sides, strict=True):
        for answer in side:
            if answer.text.strip():
                by_prompt.setdefault(answer.prompt, {}).setdefault(name, answer.text)
    rng = random.Random(f"{seed}-{round_number}")
    order = sorted(by_prompt)
    rng.shuffle(order)
    rows: list[Row] = []
    for prompt in order:
        for pair in combinations([name for name in FROM if name in by_prompt[prompt]], 2):
            a_from, b_from = rng.sample(pair, 2)
            a, b = by_prompt[prompt][a_from], by_prompt[prompt][b_from]
            if a != b and len(rows) < count:
                row = {"round": round_number, "domain": domains[prompt], "prompt": prompts[prompt], "a": a, "b": b}
                rows.append({"id": f"{round_number}-{len(rows):05d}", **row, "a_from": a_from, "b_from": b_from})
    return rows


def read_comparisons(path: Path) -> list[Row]:
    """Raises UserError naming the line at fault."""
    rows = read_rows(path, ("id", "domain", "prompt", "a", "b"), "comparisons")
    for number, row in enumerate(rows, 1):
        texts = all(isinstance(row[key], str) for key in ("id", "domain", "a", "b"))
        if not texts or not _is_conversation(row["prompt"]):
            raise UserError(
                f"{path} line {number}: id, domain, a and b must be texts, prompt a list of messages; correct it"
            )
    if len({row["id"] for row in rows}) < len(rows):
        raise UserError(f"{path} has the same id twice; give every comparison one of its own")
    return rows


def read_labels(path: Path) -> list[Row]:
    """Labelled comparisons. Raises UserError naming the line at fault."""
    rows = read_comparisons(path)
    for number, row in enumerate(rows, 1):
        if row.get("label") not in LABELS:
            raise UserError(f'{path} line {number}: "label" must be one of {", ".join(LABELS)}; correct the file')
    return rows


def labelled_pairs(labels: Sequence[Row]) -> list[Row]:
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


def _is_conversation(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in prompt
    )
