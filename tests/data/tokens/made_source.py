"""Token sources whose tokens are all different, so that a token says where it comes from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ilm_ray.data.tokens.shards import TokenSource, write_shard


def make_source(
    folder: Path, lengths: Sequence[int], weights: Sequence[float] | None = None, first: int = 0, shards: int = 1
) -> TokenSource:
    """Documents of these lengths; tokens count from `first`."""
    starts = first + np.concatenate([[0], np.cumsum(lengths)])
    documents = [
        {
            "tokens": np.arange(starts[i], starts[i + 1]),
            "bytes": int(length),
            "id": first + i,
            "url": f"{folder.parent.name}/{i}",
            "dump": "d",
            "weight": weights[i] if weights else 1.0,
        }
        for i, length in enumerate(lengths)
    ]
    for number, part in enumerate(np.array_split(np.arange(len(documents)), shards)):
        write_shard(folder, number, [documents[i] for i in part])
    return TokenSource(folder)
