"""The slow path (report section 4.2.2): answers of SFT, early and late PPO in pairs for people.

A comparison: {"id", "round", "domain", "prompt": messages, "a": text, "b": text, "a_from", "b_from": sft, early or
late}. `labels.py` reads comparisons and their labels.
"""

import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from ilm_ray.alignment.online.hacking import WINDOW, Answer
from ilm_ray.alignment.online.rollouts import windows
from ilm_ray.base.jsonl import JsonObject

FROM = ("sft", "early", "late")


def comparisons(
    answers: Sequence[Answer], prompts: Mapping[str, Any], count: int, round_number: int, seed: int
) -> list[JsonObject]:
    """At most `count` comparisons: every two answers to a prompt by SFT, early and late PPO that differ.

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
    rows: list[JsonObject] = []
    for prompt in order:
        for pair in combinations([name for name in FROM if name in by_prompt[prompt]], 2):
            a_from, b_from = rng.sample(pair, 2)
            a, b = by_prompt[prompt][a_from], by_prompt[prompt][b_from]
            if a != b and len(rows) < count:
                row = {"round": round_number, "domain": domains[prompt], "prompt": prompts[prompt], "a": a, "b": b}
                rows.append({"id": f"{round_number}-{len(rows):05d}", **row, "a_from": a_from, "b_from": b_from})
    return rows
