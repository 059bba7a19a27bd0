"""Drop lists on disk: the documents of one input file that fall as duplicates."""

from pathlib import Path

import numpy as np

from ilm_ray.data.dedup.components import Drops
from ilm_ray.data.documents.paths import save_arrays


def save_drops(path: Path, drops: Drops) -> None:
    """Write the list of duplicates in one step."""
    save_arrays(path, ids=drops.ids, duplicate_of=drops.duplicate_of, similarity=drops.similarity, exact=drops.exact)


def load_drops(path: Path) -> Drops:
    """The inverse of `save_drops`. Raises OSError or ValueError where the file is missing or damaged."""
    with np.load(path, allow_pickle=False) as saved:
        return Drops(saved["ids"], saved["duplicate_of"], saved["similarity"], saved["exact"])
