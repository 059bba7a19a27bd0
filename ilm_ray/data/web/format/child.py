"""The extractor's child process: pages in on stdin, texts out on stdout, until stdin ends (see extract.py)."""

import contextlib
import ctypes
import re
import resource
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

HEADER = struct.Struct("<i")  # bytes of the message that follows
READY = b"!"
_NEAR_LIMIT = 0.9  # a document that takes the child this far may have met the limit inside a parser that says nothing
_RESIDENT = re.compile(r"Vm(?:HWM|RSS):\s+(\d+) kB")


@dataclass(frozen=True)
class Page:
    """A page as it was sent. `checked`: extract it even if the pre-pass throws it out."""

    body: bytes
    charset: str | None = None  # that the HTTP header names
    checked: bool = False


@dataclass(frozen=True)
class Extracted:
    """Result of a page: text and the page's title, or why there is none.

    `failure`: no_text, extract_timeout, extract_crash, extract_memory, or, unless the page is a checked one,
    `prepass`: prepass_empty, prepass_language.
    """

    text: str = ""
    charset: str | None = None
    failure: str | None = None
    prepass: str | None = None
    title: str = ""  # one line


Work = Callable[[Page], Extracted]


def pack_page(page: Page) -> bytes:
    """A page as bytes of the pipe: length, a line with flag and charset, body."""
    data = f"{int(page.checked)}{page.charset or ''}\n".encode("utf-8", "replace") + page.body
    return HEADER.pack(len(data)) + data


def unpack_answer(data: bytes) -> tuple[Extracted, int]:
    """(outcome of the page, bytes of memory of the child then)."""
    failure, charset, prepass, resident, title, text = data.decode("utf-8").split("\n", 5)
    return Extracted(text, charset or None, failure or None, prepass or None, title), int(resident)


def serve(work: Work, cpu_s: float, memory_bytes: int) -> None:
    """Answer pages until stdin ends.

    The interval timer's signal has no handler, so the kernel ends the process when a document's CPU time is over.
    """
    if sys.platform == "linux":  # a child in an endless loop would outlive a parent that is killed
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # a parent may have it ignored or blocked
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    source, target = sys.stdin.buffer, sys.stdout.buffer
    target.write(READY)
    target.flush()
    while (page := _next_page(source)) is not None:
        _forget_peak()
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        try:
            extracted = work(page)
        except MemoryError:
            extracted = Extracted(failure="extract_memory")
        except Exception:  # a parser's bug: the document's outcome, not the child's end
            extracted = Extracted(failure="extract_crash")
        signal.setitimer(signal.ITIMER_PROF, 0)
        peak, resident = _memory()
        if peak > _NEAR_LIMIT * memory_bytes:
            extracted = Extracted(failure="extract_memory")
        _answer(target, extracted, resident)


def read_page(page: Page, prepass: bool = False, languages: list[str] | None = None, min_chars: int = 0) -> Extracted:
    """Decode, pre-pass if wanted, main text."""
    from ilm_ray.data.web.format.charset import decode
    from ilm_ray.data.web.format.maintext import title_and_text
    from ilm_ray.data.web.format.prepass import thrown_out

    html, charset = decode(page.body, page.charset)
    rule = thrown_out(html, languages, min_chars) if prepass else None
    if rule is not None and not page.checked:
        return Extracted("", charset, rule, rule)
    title, text = title_and_text(html)
    return Extracted(text, charset, None if text.strip() else "no_text", rule, title)


def _next_page(source: BinaryIO) -> Page | None:
    head = source.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    line, _, body = source.read(HEADER.unpack(head)[0]).partition(b"\n")
    return Page(body, line[1:].decode() or None, line[:1] == b"1")


def _answer(target: BinaryIO, extracted: Extracted, resident: int) -> None:
    about = (extracted.failure or "", extracted.charset or "", extracted.prepass or "", str(resident), extracted.title)
    data = "\n".join((*about, extracted.text)).encode("utf-8", "replace")
    target.write(HEADER.pack(len(data)) + data)
    target.flush()


def _memory() -> tuple[int, int]:
    """(most, now) bytes resident; zeros where the system does not tell."""
    with contextlib.suppress(OSError):
        most, now = _RESIDENT.findall(Path("/proc/self/status").read_text())
        return int(most) * 1024, int(now) * 1024
    return 0, 0


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _main(arguments: list[str]) -> None:
    cpu_s, memory_bytes, prepass, languages, min_chars = arguments
    # Slow to import: before the first document's clock starts.
    import ilm_ray.data.web.format.charset
    import ilm_ray.data.web.format.maintext
    import ilm_ray.data.web.format.prepass  # noqa: F401

    wanted = languages.split(",") if languages else None

    def work(page: Page) -> Extracted:
        return read_page(page, prepass == "1", wanted, int(min_chars))

    serve(work, float(cpu_s), int(memory_bytes))


if __name__ == "__main__":
    _main(sys.argv[1:])
