"""A reward function in a process of its own, which is ended and begun anew where it does not answer in time."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Verdict = dict[str, float] | str  # parts by name, or why there is none

_START_S = 120.0  # to import the function's module and what it imports
_MOST_BYTES = 1 << 16  # of a verdict


class FunctionProcess:
    """A function of `named.reward_function`. folder: where its module may lie, beside PYTHONPATH."""

    def __init__(self, by: str, options: dict[str, Any], seconds: float, folder: Path) -> None:
        self.by, self.options, self.seconds, self.folder = by, options, seconds, folder
        self._child: subprocess.Popen[bytes] | None = None
        self._verdicts = -1

    def ask(
        self, prompt: Sequence[Any], answer: str, metadata: dict[str, Any], seconds: float | None = None
    ) -> Verdict:
        """The verdict on an answer, or why there is none. seconds: less than the usual time, where less is left."""
        seconds = self.seconds if seconds is None else min(seconds, self.seconds)
        try:
            if self._child is None and isinstance(failed := self.start(), str):
                return failed
            return self._exchange({"prompt": prompt, "answer": answer, "metadata": metadata}, seconds)
        except OSError as error:
            self.stop()
            return f"its process ended ({type(error).__name__})"

    def start(self) -> str | None:
        """Begin the process and import the function; why it cannot be, else None."""
        self._verdicts, end = os.pipe()
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "ilm_ray.evaluation.verifiers.child", str(end), str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(end,),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,
            )
        finally:
            os.close(end)
        verdict = self._exchange({"by": self.by, "options": self.options}, _START_S)
        if isinstance(verdict, str):
            self.stop()
            return verdict
        return None

    def stop(self) -> None:
        """End the process, and those that the function began in its session."""
        if self._child is None:
            return
        child, self._child = self._child, None
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            child.kill()
        child.wait()
        if child.stdin is not None:
            child.stdin.close()
        os.close(self._verdicts)

    def _exchange(self, request: dict[str, Any], seconds: float) -> Verdict:
        assert self._child is not None and self._child.stdin is not None
        until, pipe = time.monotonic() + seconds, self._child.stdin.fileno()
        os.set_blocking(pipe, False)
        left, line = memoryview(json.dumps(request).encode() + b"\n"), b""
        while not line.endswith(b"\n"):
            # It may end, or fill its pipe, before it has read all.
            ready, room, _ = select.select(
                [self._verdicts], [pipe] if left else [], [], max(0.0, until - time.monotonic())
            )
            if not ready and not room:
                self.stop()
                return f"no answer within {seconds:g} s"
            if room:
                left = left[os.write(pipe, left[:_MOST_BYTES]) :]
            if ready:
                more = os.read(self._verdicts, _MOST_BYTES)
                line += more
                if not more or len(line) > _MOST_BYTES:
                    self.stop()
                    return "its process ended" if not more else "it wrote more than a verdict"
        return self._read(line)

    def _read(self, line: bytes) -> Verdict:
        """The child's verdict, which the function's own code may have written."""
        try:
            said = json.loads(line)
            parts = said.get("parts")
            if isinstance(parts, dict) and all(isinstance(number, float) for number in parts.values()):
                return {str(name): number for name, number in parts.items()}
            return str(said["why"])
        except (ValueError, KeyError, AttributeError, TypeError):
            self.stop()
            return "it wrote what is no verdict"
