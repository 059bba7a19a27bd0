"""The extractor's child: reused, recycled, ended by its own limits alone; and what it makes of pages."""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path

import psutil
import pytest

from ilm_ray.data.web.format.child import Page
from ilm_ray.data.web.format.extract import Extractor
from ilm_ray.data.web.format.warc import read_captures

pytestmark = pytest.mark.process

# The real child around a parser that misbehaves on request.
CHILD = r"""
import os, re, sys, time
from pathlib import Path
from ilm_ray.data.web.format.child import Extracted, serve

def work(page):
    text = page.body.decode()
    if text == "loop":
        while True: pass
    if text == "regex":
        re.match(r"(a+)+$", "a" * 60 + "b")
    if text == "crash":
        os.abort()
    if text == "bug":
        raise RuntimeError("a parser's bug")
    if text.startswith("once"):  # killed from outside, the first time
        mark = Path(text.split()[1])
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), 9)
    if text.startswith("memory"):
        kept = b"x" * int(text.split()[1])
    if text.startswith("swallowed"):
        try:
            kept = [b"x" * 1_000_000 for _ in range(4000)]
        except MemoryError:
            return Extracted("a text that depends on where memory ended")
    if text.startswith("sleep"):
        time.sleep(float(text.split()[1]))
    return Extracted(f"pid {os.getpid()} {text}", failure="no_text" if text == "none" else None)

if len(sys.argv) > 6 and sys.argv[1] == "trickle":  # an answer that comes byte by byte, and never ends
    sys.stdout.buffer.write(b"!")
    sys.stdout.buffer.flush()
    sys.stdin.buffer.read(1)
    sys.stdout.buffer.write((9999).to_bytes(4, "little"))
    while True:
        sys.stdout.buffer.write(b"x")
        sys.stdout.buffer.flush()
        time.sleep(0.05)
serve(work, float(sys.argv[1]), int(sys.argv[2]))
"""


@pytest.fixture
def child(tmp_path: Path) -> list[str]:
    path = tmp_path / "child.py"
    path.write_text(CHILD)
    return [sys.executable, str(path)]


def page(text: str) -> Page:
    return Page(text.encode())


def pid_of(text: str) -> int:
    return int(text.split()[1])


@pytest.mark.parametrize("stuck", ["loop", "regex"])
def test_cpu_time_ends_a_document_and_the_next_one_works(child: list[str], stuck: str) -> None:
    with Extractor(0.3, command=child) as extractor:
        first = extractor.extract(page("one"))
        before = time.process_time()
        assert extractor.extract(page(stuck)).failure == "extract_timeout"
        assert time.process_time() - before < 0.3  # the parent waits without work
        assert not psutil.pid_exists(pid_of(first.text))
        assert extractor.extract(page("x" * 3_000_000)).text.endswith("x" * 1000)
        assert extractor.started == 2


def test_a_parent_that_blocks_the_signal_changes_nothing(child: list[str]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])
    try:
        with Extractor(0.3, command=child) as extractor:
            assert extractor.extract(page("loop")).failure == "extract_timeout"
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])


def test_waiting_is_no_cpu_time_and_ends_at_the_backstop(child: list[str]) -> None:
    with Extractor(0.1, command=child) as extractor:
        assert extractor.extract(page("sleep 0.4")).text
        assert extractor.extract(page("sleep 30")).failure == "extract_timeout"


def test_an_answer_that_trickles_in_ends_at_the_backstop_too(child: list[str]) -> None:
    with Extractor(0.1, command=[*child, "trickle"]) as extractor:
        began = time.monotonic()
        assert extractor.extract(page("x")).failure == "extract_timeout"
        assert time.monotonic() - began < 10


def test_a_busy_machine_changes_no_outcome(child: list[str]) -> None:
    """The child gets a fraction of a core and is stopped now and then; the same documents come out."""
    with Extractor(1.0, command=child) as extractor:
        pid = pid_of(extractor.extract(page("first")).text)
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        halt = threading.Event()

        def disturb() -> None:
            while not halt.wait(0.01):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.1)
                os.kill(pid, signal.SIGCONT)

        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            texts = [extractor.extract(page(f"sleep 0.001 {n}")).text for n in range(20)]
        finally:
            halt.set()
            thread.join()
        assert [text.split()[-1] for text in texts] == [str(n) for n in range(20)]
        assert extractor.started == 1


def test_a_child_killed_from_outside_costs_nothing(child: list[str], tmp_path: Path) -> None:
    jobs = [(n, page("x" if n % 5 else f"once {tmp_path / str(n)}")) for n in range(20)]
    with Extractor(20, command=child) as extractor:
        outcomes = list(extractor.extract_all(jobs))
        assert extractor.started == 1 + 4
    assert [n for n, _ in outcomes] == list(range(20))
    assert all(extracted is not None and extracted.failure is None for _, extracted in outcomes)


def test_a_document_that_crashes_twice_is_given_up_and_its_neighbours_are_not(child: list[str]) -> None:
    names = ["a", "crash", "b", "bug", "c", "none", "loop", "d"]
    with Extractor(0.5, command=child) as extractor:
        outcomes = list(extractor.extract_all((name, page(name)) for name in names))
    assert {name: extracted and extracted.failure for name, extracted in outcomes} == {
        "a": None,
        "crash": "extract_crash",
        "b": None,
        "bug": "extract_crash",
        "c": None,
        "none": "no_text",
        "loop": "extract_timeout",
        "d": None,
    }


def test_memory_is_bounded(child: list[str]) -> None:
    with Extractor(20, memory_bytes=200 << 20, command=child) as extractor:
        for name, failure in (
            (f"memory {100 << 20}", None),
            (f"memory {300 << 20}", "extract_memory"),
            ("swallowed", "extract_memory"),
            ("after", None),
        ):
            assert extractor.extract(page(name)).failure == failure, name


def test_children_are_reused_and_recycled(child: list[str]) -> None:
    with Extractor(20, recycle_after=3, command=child) as extractor:
        outcomes = [extracted for _, extracted in extractor.extract_all((n, page("x")) for n in range(7))]
    pids = [pid_of(extracted.text) for extracted in outcomes if extracted]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[5] != pids[6]
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_file_that_is_given_up_leaves_no_answer_to_the_next(child: list[str]) -> None:
    def broken(pages: int) -> Iterator[tuple[int, Page]]:
        for number in range(pages):
            yield number, page(f"first file {number}")
        raise OSError("the archive ends")

    with Extractor(20, command=child) as extractor:
        for pages in (1, 4):
            with pytest.raises(OSError, match="the archive ends"):
                list(extractor.extract_all(broken(pages)))
            assert "second file" in extractor.extract(page("second file")).text
        answers = extractor.extract_all((number, page(f"third file {number}")) for number in range(4))
        next(answers)
        answers.close()  # the caller stops
        assert "fourth file" in extractor.extract(page("fourth file")).text


def test_large_pages_and_texts_do_not_block_each_other(child: list[str]) -> None:
    """Both pipes are full at once: the child's answer does not fit, and neither does the next page."""
    sizes = [5_000_000, 3, 4_000_000, 0, 6_000_000]

    def jobs() -> Iterator[tuple[int, Page | None]]:
        for size in sizes:
            yield size, page("y" * size)
            yield -1, None

    with Extractor(20, command=child) as extractor:
        for size, extracted in extractor.extract_all(jobs()):
            assert (extracted is None) == (size < 0)
            assert extracted is None or len(extracted.text.split()[-1]) >= size


def test_main_text_of_a_page() -> None:
    words = "The miller opens the gate every morning and lets the water run over the wheel. "
    html = f"<html><body><nav><a href='/'>Home</a></nav><article><p>{words * 5}</p></article></body></html>"
    with Extractor(30) as extractor:
        extracted = extractor.extract(Page(html.encode("utf-16"), "gbk"))
        assert words.strip() in extracted.text and extracted.charset == "utf-16-le"
        for empty in ("", "<html><body></body></html>", "\x00", "<!doctype html>"):
            assert extractor.extract(page(empty)).failure == "no_text"


@pytest.mark.slow
def test_the_gold_texts_come_out_of_all_annotated_captures(shared_data: Path) -> None:
    """F1 over must-have and must-not-have segments, on all dumps."""
    gold = {}
    with (shared_data / "web" / "gold_text.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            gold |= dict.fromkeys(row["payload_sha1"], row)
    hits = misses = wrong = 0
    for path in sorted((shared_data / "web").glob("CC-MAIN-*/*.warc.gz")):
        with path.open("rb") as stream, Extractor(60) as extractor:
            captures = [c for c in read_captures(stream, 1 << 24, Counter()) if sha1(c.body).hexdigest() in gold]
            for capture, extracted in extractor.extract_all((c, Page(c.body, c.charset)) for c in captures):
                row, text = gold[sha1(capture.body).hexdigest()], extracted.text if extracted else ""
                count = sum(segment in text for segment in row["with"])
                hits, misses = hits + count, misses + len(row["with"]) - count
                wrong += sum(segment in text for segment in row["without"])
    f1 = 2 * hits / (2 * hits + misses + wrong)
    print(f"{f1:.4f}")
    assert f1 >= 0.92
