"""Compile numba's loops once: ten seconds in each of many processes that start at once."""

import numpy as np


def main() -> None:
    import ilm_ray.text.classifiers.features
    import ilm_ray.text.hosts
    import ilm_ray.text.rules
    import ilm_ray.tokenizer.encoder  # noqa: F401
    from ilm_ray.decontamination.index import build_index
    from ilm_ray.decontamination.items import Item
    from ilm_ray.decontamination.match import find_passages
    from ilm_ray.text.dedup.minhash import sign_batch

    sign_batch(["the loops of signatures are compiled at their first call"], 5, 128, 14, 9)
    said = "the loops of decontamination are compiled at their first call, too, for good and all"
    index = build_index([Item("", "0", said, "", "", "")], 4, np.empty(0, np.uint64))
    find_passages([said], index.table, 4, 0.8)


if __name__ == "__main__":
    main()
