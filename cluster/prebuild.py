"""Compile numba's loops once: ten seconds in each of many processes that start at once."""

import numpy as np


def main() -> None:
    from ilm_ray.data.decontamination.index import build_index
    from ilm_ray.data.decontamination.items import Item
    from ilm_ray.data.decontamination.match import find_passages
    from ilm_ray.data.dedup.minhash import sign_batch

    sign_batch(["the loops of signatures are compiled at their first call"], 5, 128, 14, 9)
    text = "the loops of decontamination are compiled at their first call, too, for good and all"
    index = build_index([Item("", "0", text, "", "", "")], 4, np.empty(0, np.uint64))
    find_passages([text], index.table, 4, 0.8)


if __name__ == "__main__":
    main()
