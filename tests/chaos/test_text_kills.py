"""kill -9 at ten random moments of the text stage: its files end up the same bytes as those of an undisturbed run."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from fastwarc.warc import ArchiveIterator

REPOSITORY = Path(__file__).parents[2]
PAGES_PER_FILE = 36
DEADLINE_S = 600.0  # of one run; a machine that is busy with other work takes minutes
# By the title that Ray gives a process. Its agents are no workers: a node does not outlive its agent.
IS_A: dict[str, Callable[[str], bool]] = {
    "task": lambda title: title.startswith("ray::") and not re.search("IDLE|Actor|Agent", title),
    "actor": lambda title: title.startswith("ray::") and "Actor" in title,
    "extractor": lambda title: "-m ilm_ray.data.web.format." in title,
}


@dataclass(frozen=True)
class Moment:
    """When this share of the stage's files is there, one of them since the last start, and then some seconds: kill."""

    share: float
    delay_s: float
    victim: str  # driver, task (a Ray worker that runs one), actor (one of Ray Data's own) or extractor


def moments(rng: random.Random) -> list[Moment]:
    """Ten, in the order in which they come. Extractors live in the first pass only, about 0.4 of all files."""
    victims = ["driver"] * 3 + ["task"] * 3 + ["actor"] + ["extractor"] * 3
    latest = {"extractor": 0.3}
    drawn = [Moment(rng.uniform(0.0, latest.get(v, 0.85)), rng.uniform(0.0, 0.3), v) for v in victims]
    return sorted(drawn, key=lambda moment: moment.share)


class Job:
    """`jobs/web_text.py` over and over in one run folder. On leaving, nothing that it started is left."""

    def __init__(self, run_dir: Path, pages: str) -> None:
        self.run_dir, self.pages = run_dir, pages
        self.starts = 0
        self._family: set[psutil.Process] = set()

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *exc: object) -> None:
        self._family.update(self._members())
        for process in self._family:  # after a driver's death Ray's agents stay for a minute
            killed(process)

    def start(self) -> None:
        self.starts += 1
        self._found = self.files()
        with (self.run_dir.parent / f"{self.run_dir.name}-{self.starts}.log").open("w") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "jobs/web_text.py", "--run-dir", str(self.run_dir), f"input={self.pages}"),
                    *("text.languages=null", "ray.num_cpus=2", "ray.dashboard=false"),
                ],
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "disabled"},
            )

    def end(self) -> None:
        out, _ = self._process.communicate(timeout=DEADLINE_S)
        assert self._process.returncode == 0, out

    def files(self) -> int:
        """How many numbered files the stage has finished."""
        return sum(1 for _ in (self.run_dir / "text").glob("*/*-?????.*"))

    def goes_on_to(self, files: int) -> None:
        """Wait until that many files are there and this start of the job has finished one of them."""
        self.wait_for(lambda: self.files() >= max(files, self._found + 1))

    def kill(self, victim: str, rng: random.Random) -> None:
        """SIGKILL to one random process of this kind, as soon as there is one; a killed driver is started again."""
        self._family.update(self._members())
        if victim == "driver":
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self.start()
            return
        self.wait_for(lambda: self._strikes(victim, rng))

    def wait_for(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not reached():
            assert self._process.poll() is None, "the job ended before its moment came"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _strikes(self, victim: str, rng: random.Random) -> bool:
        candidates = [p for p in self._members() if IS_A[victim](command(p))]
        if not candidates:
            return False
        chosen = rng.choice(candidates)
        print(f"at {self.files()} files: {chosen.pid} {command(chosen)}")  # shown where the test fails
        return killed(chosen)

    def _members(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:  # it has just ended
        return ""


def killed(process: psutil.Process) -> bool:
    """SIGKILL, and the end of the process; False where it has just ended by itself."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    psutil.wait_procs([process], timeout=10)
    return True


def cut(source: Path, target: Path, pages: int) -> None:
    """The first `pages` responses of a WARC file and what comes before them, byte for byte."""
    seen, end = 0, source.stat().st_size
    with source.open("rb") as stream:
        for record in ArchiveIterator(stream, parse_http=False):
            seen += record.headers["WARC-Type"] == "response"
            if seen > pages:
                end = record.stream_pos
                break
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes()[:end])


def written(run_dir: Path) -> dict[str, str]:
    manifest = json.loads((run_dir / "text" / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_kills_change_no_byte(shared_data: Path, tmp_path: Path) -> None:
    sources = sorted((shared_data / "web").glob("CC-MAIN-*/*.warc.gz"))
    assert len(sources) >= 8
    for source in sources:
        cut(source, tmp_path / "pages" / source.parent.name / source.name, PAGES_PER_FILE)
    pages = f"{tmp_path}/pages/*/*.warc.gz"

    with Job(tmp_path / "whole", pages) as undisturbed:
        undisturbed.start()
        undisturbed.end()
        total = undisturbed.files()

    rng = random.Random(20_240_817)
    planned = moments(rng)
    with Job(tmp_path / "killed", pages) as disturbed:
        disturbed.start()
        for moment in planned:
            disturbed.goes_on_to(round(moment.share * total))
            time.sleep(moment.delay_s)
            disturbed.kill(moment.victim, rng)
        disturbed.end()

    # Only a killed driver needs somebody to start it again.
    assert disturbed.starts == 1 + sum(moment.victim == "driver" for moment in planned)
    assert written(tmp_path / "killed") == written(tmp_path / "whole")
    assert any(name.startswith("final/kept-") for name in written(tmp_path / "whole"))
