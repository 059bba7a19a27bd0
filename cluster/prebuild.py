"""Compile once, in one process, what every worker would compile at its first use.

DeepSpeed's communication extension: a rank that is killed while it builds leaves a lock file behind on which every
later run waits without a word. numba's loops: ten seconds in each of many processes that start at once.
"""

import os
import shutil
import socket
import sys
from pathlib import Path


def main() -> None:
    compile_loops()
    build_extension()


def compile_loops() -> None:
    import ilm_ray.text.classifiers.features
    import ilm_ray.text.hosts
    import ilm_ray.text.rules
    import ilm_ray.tokenizer.encoder  # noqa: F401
    from ilm_ray.text.dedup.minhash import sign_batch

    sign_batch(["the loops of signatures are compiled at their first call"], 5, 128, 14, 9)


def build_extension() -> None:
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path(sys.prefix) / "torch_extensions")
    shutil.rmtree(folder, ignore_errors=True)  # nobody else builds during set-up: a lock in here is stale
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(
        TORCH_EXTENSIONS_DIR=str(folder),
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # ninja lies beside this Python
        DS_ACCELERATOR="cpu",
        RANK="0",
        LOCAL_RANK="0",
        WORLD_SIZE="1",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import deepspeed

    deepspeed.init_distributed("gloo", verbose=False)


if __name__ == "__main__":
    main()
