"""Bad input to a job: one line, exit code 2, nothing written. Each case is a real process."""

import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import demo

REPOSITORY = Path(__file__).parents[2]
NAMED = [  # all that a preset needs
    "input=demo/data/web/*/*.warc.gz",
    "sft.data=demo/data/chat.jsonl",
    "reward.data=demo/data/preferences.jsonl",
    "ppo.prompts=demo/data/prompts.jsonl",
    "code.source=demo",
]


def run_job(*arguments: str, **env: str) -> tuple[int, dict[str, str], list[str]]:
    """Exit code, the JSON line, and what the job itself said on stderr."""
    done = subprocess.run(
        [sys.executable, f"jobs/{arguments[0]}.py", *arguments[1:]],
        cwd=REPOSITORY,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"{arguments[0]}: ")]
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), lines


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["web_text", "input=/nowhere/*.warc.gz"], "/nowhere/*.warc.gz matches no file"),
        (["web_text", "input=README.md"], "is a web archive"),
        (["pipeline", "pretrain.wrokers=2"], "did you mean 'training.workers'"),
        (["pipeline", "--preset", "70b"], "choose one of nano, mini, 1_8b, 7b, 20b"),
        pytest.param(
            ["pipeline", "--preset", "20b", *NAMED], "does not fit", marks=[pytest.mark.ray, pytest.mark.slow]
        ),
        (["pipeline", "--preset", "7b"], "needs data that no setting names: input (a glob of web archives), sft.data"),
        (["pipeline", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["code_data", "code.source=/nowhere"], "/nowhere"),
        (["sft", "sft.data=/nowhere.jsonl"], "/nowhere.jsonl does not exist"),
        (["sft"], "needs stage 'tokenizer'"),
        (["pipeline", "--bogus"], "--bogus; see jobs/pipeline.py --help"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments: list[str], words: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    code, summary, lines = run_job(*arguments, "--run-dir", str(run_dir))
    assert code == 2
    assert summary["status"] == "refused"
    assert len(lines) == 1 and words in lines[0]
    assert not run_dir.exists()


@pytest.mark.process
def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with socket.socket() as closed:  # its port is nobody's
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    run_dir = tmp_path / "run"
    code, summary, lines = run_job("web_text", "--run-dir", str(run_dir), RAY_ADDRESS=address)
    assert code == 2
    assert summary["status"] == "refused"
    assert len(lines) == 1 and f"no Ray answers at RAY_ADDRESS={address}" in lines[0]
    assert not run_dir.exists()


@pytest.mark.ray
def test_a_folder_that_cannot_be_written_is_refused() -> None:
    code, _, lines = run_job("code_data", "--run-dir", "/proc/ilm_ray")
    assert code == 2
    assert "cannot write to --run-dir /proc/ilm_ray" in lines[0]


@pytest.mark.slow
def test_a_full_disk_is_named_and_costs_what_was_not_finished(tmp_path: Path) -> None:
    size = ["-o", "size=100k"]
    if subprocess.run(["mount", "-t", "tmpfs", *size, "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root: run as root")
    try:
        run_dir, archive = tmp_path / "run", f"input={sorted((demo.DATA / 'web').glob('*/*.warc.gz'))[0]}"
        code, summary, lines = run_job("web_text", archive, "--run-dir", str(run_dir))
        assert code == 1
        assert f"OSError: [Errno 28] No space left on device (the disk of {run_dir} is full: make room" in lines[-1]
        assert summary["status"] == "failed" and summary["error"] in lines[-1]
        evidence = run_dir / "error.txt"
        assert summary["evidence"] == (str(evidence) if evidence.exists() else "the traceback above")
        assert not evidence.exists() or "Traceback" in evidence.read_text(encoding="utf-8")
        subprocess.run(["mount", "-o", "remount,size=200m", str(tmp_path)], check=True)
        code, summary, _ = run_job("web_text", archive, "--run-dir", str(run_dir))
        assert code == 0 and summary["documents_kept"] > 20  # type: ignore[operator]
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.slow  # a whole job; tests/data/web reads truncated archives by itself
@pytest.mark.ray
def test_a_truncated_archive_is_no_bad_input(tmp_path: Path) -> None:
    whole = sorted((demo.DATA / "web").glob("*/*.warc.gz"))[0].read_bytes()
    crawl = tmp_path / "CC-MAIN-2024-10"
    crawl.mkdir()
    (crawl / "cut.warc.gz").write_bytes(whole[: len(whole) // 2])
    record = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 9999\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello"
    (crawl / "odd.warc.gz").write_bytes(gzip.compress(record))
    code, summary, _ = run_job("web_text", f"input={crawl}/*.warc.gz", "--run-dir", str(tmp_path / "run"))
    assert code == 0
    assert summary["documents_kept"] > 20  # type: ignore[operator]
    records = json.loads((tmp_path / "run" / "text" / "records.json").read_text())
    assert json.dumps(records).count("truncated") and summary["status"] == "done"
