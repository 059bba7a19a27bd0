"""Evidence on a dead or silent actor: Ray's record of it, and the tail of its log."""

import os
from pathlib import Path
from typing import Any

import ray

LOG_TAIL_LINES = 8


def state_of(actor: Any) -> dict[str, Any]:
    """Ray's record of an actor, dead or alive: state, node, cause of death. Empty where Ray has none."""
    # The public state API needs a running dashboard, which small clusters do not have.
    from ray._private.state import actors

    return actors(actor._actor_id.hex()) or {}


def log_tail(state: dict[str, Any]) -> list[str]:
    """Last lines of the rank's log; empty where the rank never had a process or ran on another machine."""
    pid = state.get("Pid") or 0
    if not pid:
        return []
    node = ray._private.worker._global_node
    folder = Path(node.get_logs_dir_path()) if node is not None else Path(os.devnull)
    lines: list[str] = []
    for path in sorted(folder.glob(f"worker-*-{pid}.out")) + sorted(folder.glob(f"worker-*-{pid}.err")):
        text = path.read_text(encoding="utf-8", errors="replace").splitlines()
        lines += [line for line in text if line.strip() and not line.startswith(":")][-LOG_TAIL_LINES:]
    return lines[-LOG_TAIL_LINES:]
