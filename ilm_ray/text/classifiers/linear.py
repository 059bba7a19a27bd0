"""The default back end: logistic regression over hashed features, each weighted by how unevenly the classes use it.

The weighting is that of Wang and Manning 2012 (naive Bayes log-count ratios as feature values), tempered by a square
root. It vanishes into the weights: scoring is one pass over the text and a sum.
"""

import zipfile
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ilm_ray.corpus.files import temporary_path
from ilm_ray.errors import UserError
from ilm_ray.text.classifiers.features import PLACES, logits, vectors
from ilm_ray.text.classifiers.labels import Labels

FILE = "model.npz"
_STRENGTH = 30.0  # inverse of the penalty on the weights
_MIN_TEXTS = 2  # a feature of fewer training texts is not learned: most are


class Linear:
    """One weight for each place that a feature may hash to, and a bias."""

    kind = "linear"

    def __init__(self, weights: np.ndarray, bias: float) -> None:
        self.weights, self.bias = weights, bias

    @classmethod
    def fit(cls, training: Labels, threshold: Labels, seed: int) -> "Linear":
        """Learn from `training`, calibrate on `threshold`, then learn from both. Same labels and seed, same weights.

        Classes count alike however many texts each has: a score of one half is "as likely bad as good" among as many
        bad texts as good ones.
        """
        weights, bias = _learn(training, seed)
        held = logits(threshold.texts, weights) + bias
        spread = float(held.std()) or 1.0
        with threadpool_limits(1):
            line = LogisticRegression(class_weight="balanced").fit(held[:, None] / spread, threshold.good)
        weights, bias = _learn(training + threshold, seed)
        slope = float(line.coef_[0, 0]) / spread
        return cls((weights * slope).astype(np.float32), bias * slope + float(line.intercept_[0]))

    def score(self, texts: list[str]) -> np.ndarray:
        """Probability of GOOD for each text, float64 [n]."""
        found = logits(texts, self.weights) + self.bias
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(found, -60, 60))))

    def save(self, folder: Path) -> None:
        """Write the weights that are not zero, atomically."""
        places = np.flatnonzero(self.weights)
        temporary = temporary_path(folder / FILE)
        with temporary.open("wb") as out:
            np.savez(out, places=places.astype(np.uint32), values=self.weights[places], bias=np.float64(self.bias))
        temporary.replace(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "Linear":
        """Raises UserError where the file is damaged."""
        try:
            with np.load(folder / FILE, allow_pickle=False) as saved:
                weights = np.zeros(PLACES, np.float32)
                weights[saved["places"]] = saved["values"]
                return cls(weights, float(saved["bias"]))
        except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{folder / FILE} is no classifier ({error}); train it again, or delete its stage's folder"
            ) from None


def _learn(labels: Labels, seed: int) -> tuple[np.ndarray, float]:
    """Weights, float32 [PLACES], and the bias."""
    found = vectors(labels.texts)
    texts_with = np.bincount(found.indices, minlength=PLACES)
    good = np.bincount(found[labels.good].indices, minlength=PLACES) + 1.0
    bad = texts_with - good + 2.0
    ratio = np.log(good / good.sum()) - np.log(bad / bad.sum())
    value = np.where(texts_with >= _MIN_TEXTS, np.sqrt(np.abs(ratio)), 0.0).astype(np.float32)
    # The solver sees only what it can learn from: a fraction of the places.
    used = np.flatnonzero(value)
    scaled = found[:, used].multiply(value[used]).tocsr()
    model = LogisticRegression(C=_STRENGTH, solver="liblinear", class_weight="balanced", random_state=seed)
    with threadpool_limits(1):  # sums over several threads round differently: weights would depend on the machine
        model.fit(scaled, labels.good)
    weights = np.zeros(PLACES, np.float32)
    weights[used] = model.coef_[0] * value[used]
    return weights, float(model.intercept_[0])
