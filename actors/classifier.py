"""Groups that fine-tune a BERT-style classifier and score texts with one."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.group import Figures, Role, collect, start_groups, stop_groups, timed
from actors.ppo.roles import gpu_share
from ilm_ray.data.web.classifiers.bert import Bert, BertSettings
from ilm_ray.data.web.classifiers.card import Card, make_card, write_card
from ilm_ray.data.web.classifiers.labels import Labels, Split


@dataclass(frozen=True)
class TrainerSettings:
    """Settings of a rank that trains a BERT-style classifier."""

    folder: Path  # gets the model
    bert: BertSettings


class ClassifierTrainer:
    """One rank: fine-tunes the base and saves the result."""

    def __init__(self, rank: int, world: int, settings: TrainerSettings) -> None:
        self.settings = settings

    @timed
    def build(self) -> tuple[None, Figures]:
        return None, {}

    @timed
    def train(self, training: Labels) -> tuple[None, Figures]:
        model = Bert.fit(training, self.settings.bert)
        model.save(self.settings.folder)
        return None, {"device": model.device.type}


class ClassifierScorer:
    """One rank: a whole copy of the model, every `world`-th text."""

    def __init__(self, rank: int, world: int, folder: Path) -> None:
        self.rank, self.world, self.folder = rank, world, folder

    @timed
    def build(self) -> tuple[None, Figures]:
        self.model = Bert.load(self.folder)
        return None, {}

    @timed
    def score(self, texts: list[str]) -> tuple[None, Figures]:
        return None, {"scores": self.model.score(texts[self.rank :: self.world]).tolist()}


class Scorers:
    """A classifier on a group of actors: `score` as every classifier has it. Use as a context; it ends the actors."""

    def __init__(self, folder: Path, workers: int, deadline_s: float) -> None:
        self.workers, self.deadline_s = workers, deadline_s
        role = Role("scorer", ClassifierScorer, folder, workers, gpus=gpu_share(workers))
        self._groups = start_groups([role], f"scorers-{time.time_ns()}", deadline_s)

    def __enter__(self) -> "Scorers":
        return self

    def __exit__(self, *exc: object) -> None:
        stop_groups(self._groups)

    def score(self, texts: list[str]) -> np.ndarray:
        """Probability of GOOD for each text, float64 [n]; same as on one worker."""
        call = self._groups["scorer"].start("score", ray.put(texts))
        scores = np.zeros(len(texts), np.float64)
        for rank, figures in enumerate(collect([call], self.deadline_s)[0]):
            scores[rank :: self.workers] = figures["scores"]
        return scores


def train_bert(
    name: str,
    parts: Split,
    folder: Path,
    settings: BertSettings,
    made_from: dict[str, Any],
    workers: int = 2,
    deadline_s: float = 6 * 3600.0,
) -> Card:
    """Fine-tune on one actor, measure on `workers`; writes `folder` and returns the card.

    Raises GroupError where the base cannot be loaded (its cause is a UserError) or after `deadline_s`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    role = Role("trainer", ClassifierTrainer, TrainerSettings(folder, settings), cpus=1.0, gpus=gpu_share(1))
    groups = start_groups([role], f"trainer-{time.time_ns()}", deadline_s)
    try:
        collect([groups["trainer"].start("train", ray.put(parts.training))], deadline_s)
    finally:
        stop_groups(groups)
    with Scorers(folder, workers, deadline_s) as scorers:
        card = make_card(name, Bert.kind, scorers.score, parts, made_from | vars(settings))
    write_card(folder, card)
    return card
