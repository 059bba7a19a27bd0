"""Rounds of PPO made up: prompts with vocabularies of their own, a policy that may drift, a score that may pay."""

import random
from collections.abc import Callable

from ilm_ray.alignment.online.hacking import Answer

_EN = (
    "the", "river", "bends", "gently", "past", "old", "stone", "mills", "where", "people", "once", "made", "paper",
    "and", "sold", "it", "at", "busy", "markets",
)  # fmt: skip
_ZH = "河水缓缓流过古老石磨那里人们曾经造纸并把它卖到热闹集市远处山上有一座小庙钟声每天早晨响起"
DOMAINS = ("helpful", "code")

Change = Callable[[random.Random, str, float], str]  # (random, text, progress of the round in [0, 1]) -> text
Score = Callable[[str], float]


def plain_answer(rng: random.Random, topic: int, chinese: bool) -> str:
    """A few sentences whose words depend on the prompt."""
    taste = random.Random(topic)
    if chinese:
        bag = [taste.choice(_ZH) for _ in range(30)]
        parts = ["".join(rng.choice(bag) for _ in range(rng.randint(5, 12))) for _ in range(rng.randint(1, 3))]
        return "".join(part + "。" for part in parts)
    bag = [taste.choice(_EN) for _ in range(12)]
    parts = [" ".join(rng.choice(bag) for _ in range(rng.randint(4, 11))) for _ in range(rng.randint(1, 3))]
    return " ".join(part.capitalize() + "." for part in parts)


def make_round(
    seed: int,
    change: Change = lambda rng, text, progress: text,
    score: Score = lambda text: 0.0,
    iterations: int = 20,
    prompts: int = 60,
    each: int = 24,
    chinese_share: float = 0.4,
) -> list[Answer]:
    """Answers of a round; the score is what `score` says plus what the prompt is worth plus noise of one half."""
    rng = random.Random(seed)
    answers: list[Answer] = []
    order: list[int] = []
    for iteration in range(iterations):
        for _ in range(each):
            order = order or rng.sample(range(prompts), prompts)
            topic = order.pop()
            text = plain_answer(rng, topic, random.Random(-topic - 1).random() < chinese_share)
            text = change(rng, text, iteration / max(1, iterations - 1))
            value = score(text) + random.Random(topic + 1000).gauss(0, 1) + rng.gauss(0, 0.5)
            answers.append(Answer(f"p{topic}", DOMAINS[topic % 2], iteration, iteration, text, value))
    return answers
