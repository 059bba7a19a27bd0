"""Diagnosis of a training attempt that failed: rules read the traces of its ranks and name a remedy."""

import errno
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ilm_ray.run.rundata import read_json

IDLE = "idle: not needed"  # activity of a rank that has no place in the layout
# Errors of ranks whose partner died: a consequence, never the cause.
_PARTNER_GONE = re.compile(
    r"connection (closed|reset|refused)|broken pipe|socket (timeout|closed)|peer|timed out (waiting|after)|"
    r"gloo|nccl|store->|tcpstore|collective",
    re.IGNORECASE,
)
# Errors of a rank whose process group Ray Train destroys to build one of another size: no fault. The second comes from
# a collective on a mesh, which looks its group up by name.
_TAKEN_DOWN = re.compile(
    r"process group has not been initialized|could not resolve the process group registered under", re.IGNORECASE
)
_WAITS_FOR_OTHERS = ("forward and backward", "optimizer", "checkpoint", "evaluation", "loading a checkpoint")
_OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemory|can(no|')t allocate memory", re.IGNORECASE)
# Not "OOM killer": Ray names it as a possible cause for every dead worker.
_RAY_KILLED_FOR_MEMORY = re.compile(r"OutOfMemoryError|running low on memory|memory monitor", re.IGNORECASE)
_NODE_GONE = re.compile(r"node (has )?(died|is dead|was (terminated|removed|preempted))|NodeDied", re.IGNORECASE)


@dataclass(frozen=True)
class Trace:
    """The files that one rank left: its last heartbeat, and its error if it could still write one."""

    rank: int
    life: dict[str, Any]
    error: dict[str, Any] | None = None
    ray: str = ""  # the error of the worker by Ray's controller

    @property
    def taken_down(self) -> bool:
        """The error says that Ray Train destroyed the process group, which it does to resize it."""
        return self.error is not None and bool(_TAKEN_DOWN.search(self.error["message"]))

    @property
    def partner_gone(self) -> bool:
        """The error says that another rank, or the whole group, no longer answers."""
        return self.taken_down or (
            self.error is not None
            and not {"UserError", "OSError", "MemoryError", "Diverged"} & set(self.error["bases"])
            and bool(_PARTNER_GONE.search(self.error["message"]))
        )

    def words(self) -> str:
        """The trace in one line."""
        life, error = self.life, self.error
        text = f"rank {self.rank}"
        if life:
            text += f" on {life['host']} (pid {life['pid']}): step {life['step']}, {life['doing']}"
            text += f" for {life['seconds']:.0f} s" + (", ended itself" if life.get("hung") else "")
        if error:
            text += f"; {error['type']}: {_short(error['message'])}"
        elif self.ray:
            text += f"; Ray: {_short(self.ray)}"
        return text


@dataclass(frozen=True)
class Diagnosis:
    """`rank`: the first to fail, None where that cannot be told."""

    category: str
    advice: str
    rank: int | None = None
    host: str = ""
    step: int = 0
    evidence: list[str] = field(default_factory=list)
    final: bool = False  # trying again would end in the same way

    def line(self) -> str:
        """For people."""
        where = "" if self.rank is None else f", first rank {self.rank}" + (f" on {self.host}" if self.host else "")
        first = f": {self.evidence[0]}" if self.evidence else ""
        return f"{self.category.replace('_', ' ')} at step {self.step}{where}{first}. {self.advice}"


def read_traces(folder: Path) -> list[Trace]:
    """The traces of one attempt's ranks in `folder`, with the errors that Ray's controller saw."""
    ray = read_json(folder / "controller.json") or {}
    lives = {int(path.stem.split("-")[1]): read_json(path) for path in folder.glob("rank-*.json") if _is_life(path)}
    ranks = sorted({*lives, *map(int, ray)})
    return [
        Trace(rank, lives.get(rank) or {}, read_json(folder / f"rank-{rank}.error.json"), ray.get(str(rank), ""))
        for rank in ranks
    ]


def diagnose(traces: Sequence[Trace], lost_nodes: Iterable[str] = ()) -> Diagnosis:
    """Apply the first rule that holds: a rank's own error, then a hang, then silence, then errors about other ranks.

    lost_nodes: ids of nodes that have left the cluster; Ray's error of a dead worker names its node.
    """
    traces = [trace for trace in traces if trace.life.get("doing") != IDLE]
    own_errors = sorted(
        (t for t in traces if t.error and not t.partner_gone), key=lambda t: t.error["time"] if t.error else 0.0
    )
    if own_errors:
        category, advice, final = _of_error(own_errors[0].error or {})
        return _diagnosis(category, advice, own_errors[0], traces, final)
    silent = [t for t in traces if t.error is None]
    hung = [t for t in traces if t.life.get("hung")]
    if hung:
        # The others wait in a collective: the rank that lags behind, or is outside of one, holds them up.
        first = min(hung, key=lambda t: (t.life["step"], t.life["doing"] in _WAITS_FOR_OTHERS, -t.life["seconds"]))
        advice = f"Its stacks are in rank-{first.rank}.stack.txt; look at its storage and network, or raise hang_s."
        return _diagnosis("hang", advice, first, traces)
    nodes = "|".join([_NODE_GONE.pattern, *map(re.escape, lost_nodes)])
    for pattern, category, advice in (
        (_RAY_KILLED_FOR_MEMORY, "out_of_memory", "Lower micro_tokens, recompute activations or split states further."),
        (
            re.compile(nodes, re.IGNORECASE),
            "node_lost",
            "It goes on where enough nodes are left; see why it went.",
        ),
    ):
        named = [t for t in traces if pattern.search(t.ray)]
        if named:
            return _diagnosis(category, advice, named[0], traces)
    blamed = [t for t in silent if t.ray] or silent
    if blamed:
        first = min(blamed, key=lambda t: t.life.get("time", 0.0))
        advice = (
            "The process ended without a word: look for kill -9, the kernel's memory killer, a crash in native code."
        )
        return _diagnosis("worker_killed", advice, first, traces)
    if traces:
        first = min(traces, key=lambda t: t.error["time"] if t.error else 0.0)
        return _diagnosis("network", "Ranks lost each other and all still lived: look at the network.", first, traces)
    return Diagnosis("no_trace", "No rank came as far as leaving a sign of life: see Ray's logs of the workers.")


def write_diagnosis(attempt: Path, lost_nodes: Iterable[str] = ()) -> dict[str, Any]:
    """Diagnose the attempt in folder `attempt` and append the row to `diagnoses.jsonl` beside it; returns the row."""
    diagnosis = diagnose(read_traces(attempt), lost_nodes)
    row: dict[str, Any] = {"attempt": int(attempt.name.split("-")[1]), **asdict(diagnosis), "line": diagnosis.line()}
    with (attempt.parent / "diagnoses.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return row


def _of_error(error: dict[str, Any]) -> tuple[str, str, bool]:
    bases, message = set(error["bases"]), error["message"]
    if "UserError" in bases:
        return "bad_input", "Mend what the message names; trying again would not help.", True
    if "Diverged" in bases:
        return (
            "diverged",
            "Lower the learning rate, look at the data named in incidents.jsonl, or check the weights.",
            True,
        )
    if error.get("errno") == errno.ENOSPC or "No space left on device" in message:
        return "disk_full", "Make room on that disk, or keep fewer checkpoints (keep_checkpoints).", False
    if "MemoryError" in bases or "OutOfMemoryError" in bases or _OUT_OF_MEMORY.search(message):
        return "out_of_memory", "Lower micro_tokens, recompute activations or split states further.", False
    if error["doing"] == "reading data":
        return "data", "A token shard cannot be read: check <run>/tokens and its disk.", False
    if error["doing"] in ("checkpoint", "loading a checkpoint"):
        return "checkpoint", "A checkpoint cannot be written or read: check its disk; jobs/checkpoint.py verify.", False
    return "error", "An error of the program: its traceback is in the rank's error.json.", False


def _diagnosis(category: str, advice: str, first: Trace, traces: Sequence[Trace], final: bool = False) -> Diagnosis:
    step = first.error["step"] if first.error else first.life.get("step", 0)
    others = [t.words() for t in traces if t.rank != first.rank]
    return Diagnosis(
        category, advice, first.rank, first.life.get("host", ""), step, [first.words(), *others[:7]], final
    )


def _is_life(path: Path) -> bool:
    return re.fullmatch(r"rank-\d+\.json", path.name) is not None


def _short(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
