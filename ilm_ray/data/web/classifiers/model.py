"""The one interface of all back ends, and where a run's classifiers come from."""

import shutil
from pathlib import Path
from typing import Protocol

import numpy as np

from ilm_ray.base.files import temporary_path
from ilm_ray.base.jsonl import sha256_of
from ilm_ray.base.places import located
from ilm_ray.config.data import ClassifierConfig
from ilm_ray.data.web.classifiers.card import Card, make_card, read_card, write_card
from ilm_ray.data.web.classifiers.fast_text import FastText
from ilm_ray.data.web.classifiers.labels import Split, read_labels, split
from ilm_ray.data.web.classifiers.linear import Linear


class Classifier(Protocol):
    """A trained classifier."""

    def score(self, texts: list[str]) -> np.ndarray:
        """Probability of GOOD for each text, float64 [n]."""

    def save(self, folder: Path) -> None:
        """Write the model into an existing folder."""


def load_classifier(folder: Path) -> Classifier:
    """The classifier that `folder` holds. Raises UserError where it holds none."""
    kind = read_card(folder)["kind"]
    if kind == Linear.kind:
        return Linear.load(folder)
    if kind == FastText.kind:
        return FastText.load(folder)
    from ilm_ray.data.web.classifiers.bert import Bert  # torch and transformers take seconds to import

    return Bert.load(folder)


def train_linear(name: str, parts: Split, folder: Path, seed: int, made_from: Card) -> Card:
    """Train the default back end into `folder` and return its card."""
    classifier = Linear.fit(parts.training, parts.threshold, seed)
    card = make_card(name, Linear.kind, classifier.score, parts, made_from | {"seed": seed})
    folder.mkdir(parents=True, exist_ok=True)
    classifier.save(folder)
    write_card(folder, card)
    return card


def bring_fast_text(name: str, path: Path, good: str, parts: Split, folder: Path, made_from: Card) -> Card:
    """Put a fastText model into `folder`, its threshold chosen and its figures taken on the labels; its card."""
    classifier = FastText(path, good)
    card = make_card(name, FastText.kind, classifier.score, parts, made_from | {"base": path.name, "good": good})
    folder.mkdir(parents=True, exist_ok=True)
    classifier.save(folder)
    write_card(folder, card)
    return card


def check_classifier(config: ClassifierConfig) -> Path:
    """The file or folder that `provide` will use. Raises UserError where it would fail."""
    given = _given(config)
    if config.model is not None:
        load_classifier(given)
    else:
        split(read_labels(given))
    return given


def provide(name: str, config: ClassifierConfig, folder: Path, seed: int) -> Card:
    """Fill `folder` with the configured model, or one trained on the labels, unless it is complete; its card."""
    if not folder.exists() and config.model is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(folder)
        shutil.copytree(_given(config), temporary)
        temporary.replace(folder)
    if not (folder / "card.json").is_file():
        labels = _given(config)
        return train_linear(name, split(read_labels(labels)), folder, seed, {"files": {labels.name: sha256_of(labels)}})
    return read_card(folder)


def _given(config: ClassifierConfig) -> Path:
    path = config.model or config.labels
    assert path is not None, "a classifier that is off has neither"
    return Path(located(path))
