"""Drop lists: the documents of one input file that fall as duplicates."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ilm_ray.data.documents.document import Document, Verdict
from ilm_ray.data.documents.paths import save_arrays

if TYPE_CHECKING:
    from ilm_ray.data.dedup.components import Drops  # brings scipy


def judge_copy(document: Document, position: int | None, drops: "Drops", threshold: float) -> bool:
    """Remove a document that stands in `drops` (at `position`, if anywhere); whether it falls."""
    if position is None:
        return False
    document.duplicate_of = int(drops.duplicate_of[position])
    document.similarity = round(float(drops.similarity[position]), 4)
    exact = bool(drops.exact[position])
    rule, bound = ("exact_duplicate", None) if exact else ("near_duplicate", threshold)
    document.judge(Verdict(rule, document.similarity, bound))
    return True


def save_drops(path: Path, drops: "Drops") -> None:
    """Write the list of duplicates in one step."""
    save_arrays(path, ids=drops.ids, duplicate_of=drops.duplicate_of, similarity=drops.similarity, exact=drops.exact)


def load_drops(path: Path) -> "Drops":
    """The inverse of `save_drops`. Raises OSError or ValueError where the file is missing or damaged."""
    from ilm_ray.data.dedup.components import Drops

    with np.load(path, allow_pickle=False) as saved:
        return Drops(saved["ids"], saved["duplicate_of"], saved["similarity"], saved["exact"])
