"""A training process on a GPU: environment variables that must be set before CUDA and NCCL start; Python's garbage."""

import contextlib
import gc
from collections.abc import Iterator, Mapping
from pathlib import Path

COLLECT_EVERY = 50  # steps, as torchtitan


def gpu_environment(folder: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Variables of workers whose traces go to `folder`; those that are in `given` already are left as they are."""
    wanted = {
        # Batches of changing lengths leave holes that the allocator cannot join in fixed segments.
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        # Flight recorder: each rank's last collectives, written where one times out (torch's fr_trace reads them).
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_DUMP_TEMP_FILE": str(folder / "collectives-rank-"),
    }
    return {name: value for name, value in wanted.items() if name not in given}


@contextlib.contextmanager
def steady_collection() -> Iterator[None]:
    """Inside the context Python collects garbage only where `collect_after` is called: at the same steps on all ranks.

    By itself it does so when a rank has made so many objects, at another time on each, and all others wait for it.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def collect_after(step: int) -> None:
    """Collect the garbage of the last steps, every COLLECT_EVERY steps."""
    if step % COLLECT_EVERY == 0:
        gc.collect(1)
