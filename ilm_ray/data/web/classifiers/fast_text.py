"""A fastText model that somebody else has trained (DCLM's, FineWeb's relatives): its `.bin` file, read by fastText.

fastText's labels are words; one of them is GOOD. A text counts as one line: line breaks become spaces.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ilm_ray.base.errors import UserError
from ilm_ray.data.web.classifiers.card import read_card

FILE = "model.bin"
_PREFIX = "__label__"


class FastText:
    """A model file and its label for good texts, with or without fastText's prefix `__label__`.

    Raises UserError where fastText is not installed, cannot read the file, or the model has no such label.
    """

    kind = "fasttext"

    def __init__(self, path: Path, good: str) -> None:
        try:
            import fasttext
        except ImportError:
            raise UserError(f"{path} needs fastText, which is not installed: pip install fasttext-predict") from None
        try:
            self.model: Any = fasttext.load_model(str(path))
            labels = self._probabilities("")
        except (ValueError, RuntimeError, MemoryError) as error:
            raise UserError(f"{path} is no fastText model: {error}; give the .bin file of a classifier") from None
        self.path, self.good = path, good if good.startswith(_PREFIX) else _PREFIX + good
        if self.good not in labels:
            known = ", ".join(sorted(label.removeprefix(_PREFIX) for label in labels)[:10])
            raise UserError(f"{path} has no label '{good}' for good texts; it has {known}")

    @classmethod
    def load(cls, folder: Path) -> "FastText":
        """A classifier that `save` wrote beside its card. Raises UserError as the constructor does."""
        return cls(folder / FILE, str(read_card(folder)["made_from"]["good"]))

    def score(self, texts: list[str]) -> np.ndarray:
        """Probability of GOOD for each text, float64 [n]."""
        return np.array([self._probabilities(text).get(self.good, 0.0) for text in texts], np.float64)

    def save(self, folder: Path) -> None:
        """Copy the model file into `folder`."""
        shutil.copyfile(self.path, folder / FILE)

    def _probabilities(self, text: str) -> dict[str, float]:
        """Label -> probability; those that fastText leaves out are 0."""
        line = " ".join(text.split("\n")).encode("utf-8", "replace").decode()
        labels, values = self.model.predict(line, k=-1, threshold=0.0)
        return dict(zip(labels, (min(1.0, float(value)) for value in values), strict=True))
