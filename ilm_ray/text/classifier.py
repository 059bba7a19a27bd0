"""Safe and High-quality: text classifiers whose score is the probability of GOOD (report section 3.1).

The report fine-tunes BERT on labelled texts. Here a linear model over hashed token n-grams learns from the same kind of
labels: thousands of documents a second on one core, no network, and weights in a file that holds nothing but numbers.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ilm_ray.corpus.files import temporary_path, write_text_atomic
from ilm_ray.corpus.jsonl import read_jsonl
from ilm_ray.errors import UserError
from ilm_ray.text.language import tokens

FEATURES = 1 << 18
NGRAMS = 3
HELDOUT_EVERY = 5  # every fifth label measures the model and does not train it
NAMES = ("toxicity", "pornography", "advertisement", "fluency")


@dataclass(frozen=True)
class Labels:
    """Texts and whether each is good."""

    texts: list[str]
    good: np.ndarray  # bool
    languages: list[str]


class Classifier:
    """Hashed n-grams (words; characters in Chinese) and one weight for each."""

    def __init__(self, weights: np.ndarray, bias: float) -> None:
        self.weights, self.bias = weights, bias
        self._vectors = HashingVectorizer(n_features=FEATURES, analyzer=_ngrams, norm="l2", alternate_sign=True)

    @classmethod
    def fit(cls, labels: Labels, seed: int) -> "Classifier":
        blank = cls(np.zeros(FEATURES, np.float32), 0.0)
        model = LogisticRegression(C=30.0, max_iter=300, class_weight="balanced", random_state=seed)
        vectors = blank._vectors.transform(labels.texts)
        with threadpool_limits(1):  # sums over several threads round differently: weights would depend on the machine
            model.fit(vectors, labels.good)
        return cls(model.coef_[0].astype(np.float32), float(model.intercept_[0]))

    def score(self, texts: list[str]) -> np.ndarray:
        """Probability of GOOD for each text, float64 [n]."""
        logits = self._vectors.transform(texts) @ self.weights.astype(np.float64) + self.bias
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60))))

    def save(self, path: Path) -> None:
        """Write the weights that are not zero as .npz, atomically."""
        places = np.flatnonzero(self.weights)
        temporary = temporary_path(path)
        with temporary.open("wb") as out:
            np.savez(out, places=places.astype(np.uint32), values=self.weights[places], bias=np.float64(self.bias))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Classifier":
        """Raises UserError where the file is damaged."""
        try:
            with np.load(path, allow_pickle=False) as saved:
                weights = np.zeros(FEATURES, np.float32)
                weights[saved["places"]] = saved["values"]
                return cls(weights, float(saved["bias"]))
        except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} is no classifier ({error}); delete its stage's folder and run the job again"
            ) from None


def train(labels: Labels, seed: int) -> tuple[Classifier, dict[str, Any]]:
    """A classifier and its card: how it does on the labels held back, per language."""
    held = np.arange(len(labels.texts)) % HELDOUT_EVERY == 0
    classifier = Classifier.fit(_part(labels, ~held), seed)
    test = _part(labels, held)
    scores = classifier.score(test.texts)
    card: dict[str, Any] = {
        "meaning": "probability of GOOD",
        "features": f"{FEATURES} hashed token 1..{NGRAMS}-grams, L2 norm",
        "train": int((~held).sum()),
        "all": _measures(scores, test.good),
    }
    for language in sorted(set(test.languages)):
        mask = np.array([found == language for found in test.languages])
        card[language] = _measures(scores[mask], test.good[mask])
    return classifier, card


def read_labels(path: Path) -> Labels:
    """Rows {"text", "label" (1: good, 0: bad), "language"}. Raises UserError where the file holds anything else."""
    texts, good, languages = [], [], []
    try:
        for line, row in enumerate(read_jsonl(path), start=1):
            if not isinstance(row, dict) or not isinstance(row.get("text"), str) or row.get("label") not in (0, 1):
                raise UserError(f'{path} line {line}: want {{"text": "...", "label": 0 or 1}}; correct the file')
            texts.append(row["text"])
            good.append(bool(row["label"]))
            languages.append(str(row.get("language", "unknown")))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read labels {path}: {error}; correct the file or leave text.labels out") from None
    flags = np.array(good, bool)
    held = np.arange(len(texts)) % HELDOUT_EVERY == 0
    for part in (flags[held], flags[~held]):
        if len(set(part.tolist())) != 2:
            raise UserError(f"{path} needs good and bad labels in mixed order, at least ten rows; add some")
    return Labels(texts, flags, languages)


def write_card(path: Path, card: dict[str, Any]) -> None:
    write_text_atomic(path, json.dumps(card, indent=1, sort_keys=True))


def _measures(scores: np.ndarray, good: np.ndarray) -> dict[str, float | int | None]:
    both = len(set(good.tolist())) == 2
    return {
        "held_out": len(good),
        "accuracy": round(float(((scores >= 0.5) == good).mean()), 4),
        "auc": round(float(roc_auc_score(good, scores)), 4) if both else None,
    }


def _part(labels: Labels, mask: np.ndarray) -> Labels:
    chosen = np.flatnonzero(mask)
    return Labels([labels.texts[i] for i in chosen], labels.good[mask], [labels.languages[i] for i in chosen])


def _ngrams(text: str) -> list[str]:
    words = tokens(text)
    return [" ".join(words[i : i + n]) for n in range(1, NGRAMS + 1) for i in range(len(words) - n + 1)]
