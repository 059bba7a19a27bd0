"""A server of one model in a child process, watched by an actor: vLLM's own OpenAI application.

The child is a process because vLLM's application needs a main thread and an event loop. It ends with the actor, however
the actor ends.
"""

import contextlib
import ctypes
import http.client
import os
import signal
import subprocess
import tempfile
import time
from typing import IO

import psutil

from actors.ppo.engines import VLLM_ENV
from ilm_ray.base.errors import UserError
from ilm_ray.base.http import opened
from ilm_ray.serving.command import GRACE_S, ServerSettings, command, environment

POLL_S = 0.2
TAIL_LINES = 15
_SET_PDEATHSIG = 1


class Server:
    """Starts, watches and stops the child."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.url = ""
        self.child: subprocess.Popen[bytes] | None = None
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the actor

    def start(self, deadline_s: float) -> str:
        """Start and wait until it answers; its base URL (`http://host:port`).

        Raises UserError where the port is taken, RuntimeError with the end of its log where it ends or is silent.
        """
        until = time.monotonic() + deadline_s
        self.begin()
        while (url := self.ready()) is None:
            if time.monotonic() > until:
                raise self.late(deadline_s)
            time.sleep(POLL_S)
        return url

    def begin(self) -> None:
        """Start the child; `ready` says when it answers, so that a waiting caller can end it meanwhile."""
        library = ctypes.CDLL(None)
        self.child = subprocess.Popen(
            command(self.settings),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=os.environ | VLLM_ENV | environment(self.settings),
            preexec_fn=lambda: library.prctl(_SET_PDEATHSIG, signal.SIGTERM),
        )

    def ready(self) -> str | None:
        """The child's base URL, None while it does not answer. Raises as `check` does."""
        self.check()
        assert self.child is not None
        port = _listening(self.child.pid)
        if port is not None and _healthy(f"{_base(self.settings.host, port)}/health"):
            self.url = _base(self.settings.host, port)
            return self.url
        return None

    def late(self, deadline_s: float) -> RuntimeError:
        """Stops the child, which was not up in time; the error to raise, with the end of its log."""
        tail = self.tail()
        self.stop()
        return RuntimeError(f"{tail}\nthe server of {self.settings.name} is not up after {deadline_s:g} s")

    def check(self) -> None:
        """Raises where the child has ended."""
        if self.child is None:
            raise RuntimeError(f"the server of {self.settings.name} is not started")
        code = self.child.poll()
        if code is not None:
            tail = self.tail()
            if "ddress already in use" in tail:
                raise UserError(f"port {self.settings.port} of {self.settings.host} is taken; give another: port=N")
            raise RuntimeError(f"{tail}\nthe server of {self.settings.name} ended with code {code}")

    def stop(self) -> None:
        """Wait GRACE_S for running answers, then kill the child and its processes."""
        if self.child is None or self.child.poll() is not None:
            return
        family = psutil.Process(self.child.pid).children(recursive=True)
        self.child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(GRACE_S)
        for process in [self.child, *family]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.child.wait()

    def tail(self) -> str:
        """The last lines of the child's log."""
        size = self.log.seek(0, os.SEEK_END)
        data = os.pread(self.log.fileno(), 1 << 14, max(0, size - (1 << 14)))
        return "\n".join(data.decode("utf-8", "replace").splitlines()[-TAIL_LINES:])


def _listening(pid: int) -> int | None:
    """The TCP port that a process listens on."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                return int(connection.laddr.port)
    return None


def _base(host: str, port: int) -> str:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{reachable}:{port}"


def _healthy(url: str) -> bool:
    try:
        with opened(url, 2.0) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):  # URLError is an OSError
        return False
