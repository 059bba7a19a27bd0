"""Garbage is collected at fixed steps; a person's own environment variables stay."""

import gc
import weakref
from pathlib import Path

import pytest

from ilm_ray.training.environment import COLLECT_EVERY, collect_after, gpu_environment, steady_collection


class _Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_garbage_goes_at_fixed_steps_and_at_no_other_time() -> None:
    with steady_collection():
        gone = weakref.ref(_Cycle())
        for _ in range(gc.get_threshold()[0] * 3):  # more objects than the collector usually waits for
            _Cycle()
        for step in range(1, COLLECT_EVERY):
            collect_after(step)
        assert gone() is not None
        collect_after(COLLECT_EVERY)
        assert gone() is None
    assert gc.isenabled()


def test_collection_is_as_before_after_an_error() -> None:
    with pytest.raises(KeyError), steady_collection():
        raise KeyError
    assert gc.isenabled()


def test_variables_that_are_set_already_are_left(tmp_path: Path) -> None:
    ours = gpu_environment(tmp_path, {})
    assert ours["TORCH_FR_DUMP_TEMP_FILE"].startswith(str(tmp_path))
    mine = {"PYTORCH_ALLOC_CONF": "expandable_segments:False", "HOME": "/root"}
    assert gpu_environment(tmp_path, mine) == {n: v for n, v in ours.items() if n != "PYTORCH_ALLOC_CONF"}
