"""The extractor's child: reused, recycled, killed when it hangs or crashes."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from ilm_ray.text.extract import Extractor

# A child with the same protocol that misbehaves on request.
CHILD = r"""
import os, re, struct, sys
source, target = sys.stdin.buffer, sys.stdout.buffer
target.write(b"!"); target.flush()
while head := source.read(4):
    text = source.read(struct.unpack("<i", head)[0]).decode()
    if text == "loop":
        while True: pass
    if text == "regex":
        re.match(r"(a+)+$", "a" * 60 + "b")
    if text == "crash":
        os._exit(9)
    if text == "none":
        target.write(struct.pack("<i", -1))
    else:
        answer = ("pid %d " % os.getpid() + text).encode()
        target.write(struct.pack("<i", len(answer)) + answer)
    target.flush()
"""


@pytest.fixture
def child(tmp_path: Path) -> list[str]:
    path = tmp_path / "child.py"
    path.write_text(CHILD)
    return [sys.executable, str(path)]


@pytest.mark.parametrize("stuck", ["loop", "regex"])
def test_a_stuck_child_is_killed_and_the_next_document_works(child: list[str], stuck: str) -> None:
    with Extractor(0.5, command=child) as extractor:
        first = extractor.extract("one")
        pid = int(first.text.split()[1])
        began = time.monotonic()
        assert extractor.extract(stuck).failure == "extract_timeout"
        assert time.monotonic() - began < 10
        assert not psutil.pid_exists(pid)
        assert extractor.extract("x" * 3_000_000).text.endswith("x" * 1000)
        assert extractor.started == 2


def test_a_crash_costs_one_document(child: list[str]) -> None:
    with Extractor(20, command=child) as extractor:
        assert extractor.extract("crash").failure == "extract_crash"
        assert extractor.extract("two").text.endswith("two")
        assert extractor.extract("none").failure == "no_text"


def test_children_are_reused_and_recycled(child: list[str]) -> None:
    with Extractor(20, recycle_after=3, command=child) as extractor:
        pids = [extractor.extract("x").text.split()[1] for _ in range(7)]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[5] != pids[6]
    assert not any(psutil.pid_exists(int(pid)) for pid in pids)


def test_main_text_of_a_page() -> None:
    words = "The miller opens the gate every morning and lets the water run over the wheel. "
    page = f"<html><body><nav><a href='/'>Home</a></nav><article><p>{words * 5}</p></article></body></html>"
    with Extractor(30) as extractor:
        assert words.strip() in extractor.extract(page).text
        assert extractor.extract("").failure == "no_text"
        assert extractor.extract("<html><body></body></html>").failure == "no_text"
