"""Build DeepSpeed's communication extension once, in one process.

A rank that is killed while it builds leaves a lock file behind on which every later run waits without a word.
"""

import os
import shutil
import socket
import sys
from pathlib import Path


def main() -> None:
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
