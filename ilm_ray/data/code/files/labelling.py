"""The labelling loop of the report: label, train, predict; people check confident predictions and doubtful old labels.

A round trains on all labels so far and predicts the pool. People see only files that are predicted high or low with
confidence: the model learns most from the wrong ones. Every earlier label is validated again, by a model that has not
seen it; those that it contradicts go back to people too.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ilm_ray.data.code.files.scorer import Agreement, Scorer, agreement, vectorise
from ilm_ray.data.code.files.scores import HIGH, LOW, TIERS

CONFIDENT = 0.8  # probability of high or low from which a prediction is checked
DOUBTFUL = 0.3  # probability of an earlier label's tier below which it is asked again
FOLDS = 5


class CodeSample(NamedTuple):
    """A file; `tier` is "" where nobody has labelled it."""

    id: str
    language: str
    text: str
    tier: str = ""


@dataclass(frozen=True)
class Task:
    """A question to people: is `proposed` right? "revalidate": the file has another label from an earlier round."""

    sample: CodeSample
    proposed: str
    confidence: float
    why: Literal["check", "revalidate"]


@dataclass(frozen=True)
class Round:
    """The result of a round: the scorer of all labels so far, its agreement with people, the next questions."""

    scorer: Scorer
    agreement: dict[str, Agreement]
    tasks: list[Task]


def run_round(
    labels: Sequence[CodeSample], pool: Sequence[CodeSample], validation: Sequence[CodeSample], checks: int, seed: int
) -> Round:
    """Train, predict, and choose at most `checks` confident predictions and all doubtful earlier labels.

    `validation` never trains. Depends on its arguments alone, in any order.
    """
    labels = sorted(labels)
    known = {sample.id for sample in (*labels, *validation)}
    pool = sorted(sample for sample in pool if sample.id not in known)
    vectors, tiers = vectorise([s.text for s in labels]), _places(labels)
    scorer = Scorer.fit(vectors, tiers, seed)
    predicted = scorer.probabilities(vectorise([s.text for s in validation])).argmax(axis=1)
    agreed = agreement(predicted, _places(validation), [s.language for s in validation])
    tasks = [*_doubtful(labels, vectors, tiers, seed), *_confident(scorer, pool, checks)]
    return Round(scorer, agreed, tasks)


def merge(labels: Sequence[CodeSample], answers: Sequence[CodeSample]) -> tuple[list[CodeSample], int]:
    """All labels, an answer in the place of an earlier label; and how many earlier labels changed their tier."""
    merged = {sample.id: sample for sample in labels}
    changed = sum(answer.id in merged and merged[answer.id].tier != answer.tier for answer in answers)
    merged |= {answer.id: answer for answer in answers}
    return sorted(merged.values()), changed


def _doubtful(labels: Sequence[CodeSample], vectors: "np.ndarray", tiers: np.ndarray, seed: int) -> list[Task]:
    """Earlier labels that a model trained without them contradicts, the most doubtful first."""
    folds = np.array([_key(sample) % FOLDS for sample in labels])
    chances = np.zeros((len(labels), len(TIERS)))
    for fold in set(folds.tolist()):
        chances[folds == fold] = Scorer.fit(vectors[folds != fold], tiers[folds != fold], seed).probabilities(
            vectors[folds == fold]
        )
    label_chances = chances[np.arange(len(labels)), tiers]
    proposed = chances.argmax(axis=1)
    return [
        Task(labels[i], TIERS[proposed[i]], round(float(chances[i].max()), 4), "revalidate")
        for i in np.argsort(label_chances, kind="stable")
        if label_chances[i] < DOUBTFUL and proposed[i] != tiers[i]
    ]


def _confident(scorer: Scorer, pool: Sequence[CodeSample], checks: int) -> list[Task]:
    """As many high as low, drawn by the hashes of their ids: the surest ones alone would all be of one kind."""
    if not pool:
        return []
    chances = scorer.probabilities(vectorise([s.text for s in pool]))
    tasks = []
    for tier in (HIGH, LOW):
        sure = chances[:, TIERS.index(tier)]
        chosen = sorted(np.flatnonzero(sure >= CONFIDENT).tolist(), key=lambda i: _key(pool[i]))[: checks // 2]
        tasks += [Task(pool[i], tier, round(float(sure[i]), 4), "check") for i in chosen]
    return tasks


def _places(samples: Sequence[CodeSample]) -> np.ndarray:
    return np.array([TIERS.index(sample.tier) for sample in samples], np.int64)


def _key(sample: CodeSample) -> int:
    return int.from_bytes(hashlib.sha256(sample.id.encode("utf-8", "replace")).digest()[:8])
