"""The one interface of both back ends: fit, score, save, load."""

from pathlib import Path
from typing import Protocol

import numpy as np

from ilm_ray.text.classifiers.card import Card, make_card, read_card, write_card
from ilm_ray.text.classifiers.labels import Labels, split
from ilm_ray.text.classifiers.linear import Linear


class Classifier(Protocol):
    """A trained classifier."""

    def score(self, texts: list[str]) -> np.ndarray:
        """Probability of GOOD for each text, float64 [n]."""

    def save(self, folder: Path) -> None:
        """Write the model into an existing folder."""


def load_classifier(folder: Path) -> Classifier:
    """The classifier that `folder` holds. Raises UserError where it holds none."""
    if read_card(folder)["kind"] == "linear":
        return Linear.load(folder)
    from ilm_ray.text.classifiers.bert import Bert  # torch and transformers take seconds to import

    return Bert.load(folder)


def train_linear(
    name: str, labels: Labels, folder: Path, seed: int, made_from: Card, held_out: Labels | None = None
) -> Card:
    """Train the default back end into `folder`, return its card. Raises UserError where the labels do not suffice."""
    parts = split(labels, held_out)
    classifier = Linear.fit(parts.training, parts.threshold, seed)
    card = make_card(name, Linear.kind, classifier.score, parts, made_from | {"seed": seed})
    folder.mkdir(parents=True, exist_ok=True)
    classifier.save(folder)
    write_card(folder, card)
    return card
