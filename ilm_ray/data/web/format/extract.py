"""Main text of pages, in a child process that can be killed: a parser may hang, crash, or eat all memory.

A document ends for the same reasons on a busy machine as on an idle one: CPU seconds and bytes of memory, both watched
by the kernel, so that no C code can ignore them. A child that is killed from outside changes nothing: the document is
tried once more in a new child, and has failed only if it fails there too. The child is replaced every few thousand
pages and when it has grown, since parser caches do; it gets its next page while the parent still looks at the last
one's text.
"""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ilm_ray.data.web.format.child import HEADER, READY, Extracted, Page, pack_page, unpack_answer

RECYCLE_AFTER = 3000  # documents
MEMORY_BYTES = 1 << 30  # of a child; a page of 4 MB takes about a quarter of that
WALL_FACTOR = 10  # on a machine so busy that a document gets a tenth of a core, waiting ends
_START_S = 60.0  # importing the parser on a busy machine; no part of a document's time
_AHEAD = 2  # pages a child may have: one in work, one in its pipe
_PIPE_BYTES = 1 << 20
_TRIES = 2


T = TypeVar("T")


class _Died(Exception):
    """The child is gone."""


class Extractor:
    """`with Extractor(20.0) as extractor: extractor.extract(Page(body))`; one child, reused and replaced as needed.

    `timeout_s` is CPU seconds a document; `languages` turns the pre-pass on and names the languages that it lets
    through. `command` is the child's program (tests give their own).
    """

    def __init__(
        self,
        timeout_s: float,
        prepass: bool = False,
        languages: Sequence[str] | None = None,
        min_chars: int = 0,
        memory_bytes: int = MEMORY_BYTES,
        recycle_after: int = RECYCLE_AFTER,
        command: list[str] | None = None,
    ) -> None:
        self.timeout_s, self.memory_bytes, self.recycle_after = timeout_s, memory_bytes, recycle_after
        self.started = 0  # children so far
        settings = [str(timeout_s), str(memory_bytes), str(int(prepass)), ",".join(languages or ()), str(min_chars)]
        self._command = [*(command or [sys.executable, "-m", "ilm_ray.data.web.format.child"]), *settings]
        self._child: subprocess.Popen[bytes] | None = None
        self._given: deque[Page] = deque()  # not answered yet
        self._outbox, self._inbox = bytearray(), bytearray()
        self._sent = 0

    def __enter__(self) -> "Extractor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()

    def extract(self, page: Page) -> Extracted:
        """The main text of one page. Raises OSError only where no child can be started."""
        ((_, extracted),) = self.extract_all([(None, page)])
        assert extracted is not None
        return extracted

    def extract_all(self, jobs: Iterable[tuple[T, Page | None]]) -> Iterator[tuple[T, Extracted | None]]:
        """Each job's key with the outcome of its page, in order; None goes through. Takes jobs one ahead."""
        waiting: deque[tuple[T, Page | None]] = deque()

        def done() -> tuple[T, Extracted | None]:
            key, page = waiting.popleft()
            return key, None if page is None else self._answer()

        try:
            for key, page in jobs:
                if self._sent >= self.recycle_after:
                    while waiting:
                        yield done()
                    self._stop()
                waiting.append((key, page))
                if page is not None:
                    self._give(page)
                while len(waiting) >= _AHEAD:
                    yield done()
            while waiting:
                yield done()
        finally:
            if self._given:  # the caller or the source of pages failed: their answers must not reach the next file
                self._stop()
                self._given.clear()

    def _give(self, page: Page) -> None:
        self._given.append(page)
        self._sent += 1
        if self._child is None:
            self._start()  # sends all that is given
        else:
            self._outbox += pack_page(page)
            with contextlib.suppress(_Died):  # noticed again, and dealt with, by whoever waits for the answer
                self._exchange(0.0)

    def _answer(self) -> Extracted:
        """The result of the oldest page that has been given."""
        extracted = Extracted()
        for attempt in range(_TRIES):
            try:
                extracted, grown = unpack_answer(self._receive())
            except TimeoutError:
                self._stop()
                extracted, grown = Extracted(failure="extract_timeout"), 0
            except _Died:
                timed_out = self._stop(gone=True) == -signal.SIGPROF
                extracted, grown = Extracted(failure="extract_timeout" if timed_out else "extract_crash"), 0
            if grown > self.memory_bytes // 2:
                self._sent = self.recycle_after
            retry = attempt + 1 < _TRIES and extracted.failure in ("extract_crash", "extract_memory")
            if not retry:
                break
            self._stop()
            self._start()
        self._given.popleft()
        if self._child is None and self._given:
            self._start()
        return extracted

    def _receive(self) -> bytes:
        deadline = time.monotonic() + WALL_FACTOR * self.timeout_s
        while True:
            if len(self._inbox) >= HEADER.size:
                end = HEADER.size + HEADER.unpack_from(self._inbox)[0]
                if len(self._inbox) >= end:
                    answer = bytes(self._inbox[HEADER.size : end])
                    del self._inbox[:end]
                    return answer
            left = deadline - time.monotonic()
            if left <= 0:  # it still takes or sends a little now and then
                raise TimeoutError
            self._exchange(left)

    def _exchange(self, wait_s: float) -> None:
        """Send and receive as much as the pipes take now, or within `wait_s`. Raises TimeoutError, or _Died."""
        child = self._child
        if child is None:
            raise _Died
        assert child.stdin is not None and child.stdout is not None
        sender, receiver = child.stdin.fileno(), child.stdout.fileno()
        readable, writable, _ = select.select([receiver], [sender] if self._outbox else [], [], max(0.0, wait_s))
        if not readable and not writable and wait_s > 0:
            raise TimeoutError
        if writable:
            try:
                sent = os.write(sender, memoryview(self._outbox)[:_PIPE_BYTES])
            except BrokenPipeError:
                raise _Died from None
            del self._outbox[:sent]
        if readable:
            part = os.read(receiver, _PIPE_BYTES)
            if not part:
                raise _Died
            self._inbox += part

    def _start(self) -> None:
        """A child that is ready, with all that is given on its way. One that dies while it starts gets a second try."""
        for attempt in range(_TRIES):
            try:
                return self._start_once()
            except OSError:
                if attempt + 1 == _TRIES:
                    raise

    def _start_once(self) -> None:
        package_root = str(Path(__file__).parents[4])
        paths = [package_root, os.environ.get("PYTHONPATH", "")]
        child = self._child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)},
        )
        assert child.stdin is not None
        os.set_blocking(child.stdin.fileno(), False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(PermissionError):  # the user's share of pipe memory is used up: it stays smaller
                fcntl.fcntl(child.stdin.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.started += 1
        self._sent = len(self._given)
        deadline = time.monotonic() + _START_S
        try:
            while not self._inbox:
                self._exchange(max(1e-3, deadline - time.monotonic()))
        except (_Died, TimeoutError) as error:
            self._stop()
            raise OSError(f"the text extractor does not start: {' '.join(self._command)}") from error
        assert self._inbox == READY
        self._inbox.clear()
        for page in self._given:
            self._outbox += pack_page(page)

    def _stop(self, gone: bool = False) -> int | None:
        """End the child; the return code of one that is `gone`: it has closed its pipes, so it is about to end."""
        child, self._child = self._child, None
        self._outbox.clear()
        self._inbox.clear()
        if child is None:
            return None
        if gone:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_START_S)
        code = child.poll()
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()
        return code
