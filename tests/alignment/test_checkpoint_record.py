"""PPO's checkpoints: any damage to any file is found, and the run goes on from the newest one that is whole."""

import json
from pathlib import Path

import pytest

from actors.ppo.checkpoints import PPOCheckpoints
from ilm_ray.alignment.ppo import checkpoint_record as records
from ilm_ray.run.journal import Journal, read_journal
from jobs import checkpoint

FILES = ("policy/state/mp_rank_00_model_states.pt", "policy/latest", "critic/state/optim.pt", "flight.parquet")


def made(folder: Path, iteration: int) -> Path:
    path = folder / "checkpoints" / f"iteration-{iteration:06d}"
    for name in FILES:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(name.encode() * (20 + iteration))
    records.write_record(path, {"iteration": iteration, "version": iteration - 1, "best": None})
    return path


@pytest.mark.parametrize("name", [*FILES, records.COMMIT])
@pytest.mark.parametrize("kind", ["deleted", "half", "empty", "flipped"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(name: str, kind: str, tmp_path: Path) -> None:
    old, new = made(tmp_path, 2), made(tmp_path, 4)
    good = (new / name).read_bytes()
    changed = {"half": good[: len(good) // 2], "empty": b"", "flipped": bytes([good[0] ^ 1]) + good[1:]}
    if kind == "deleted":
        (new / name).unlink()
    else:
        (new / name).write_bytes(changed[kind])
    journal = Journal(tmp_path / "journal.jsonl")
    assert PPOCheckpoints(tmp_path, 1.0)._newest_whole(journal) == old
    events = read_journal(journal.path)
    if name == records.COMMIT and kind == "deleted":
        assert events == [], "it was never committed"
    else:
        assert [event["checkpoint"] for event in events] == [new.name]
        assert name in events[0]["why"] and events[0]["why"].endswith("the run goes on from iteration-000002")
        assert (new / records.DAMAGED).exists()
    assert PPOCheckpoints(tmp_path, 1.0)._newest_whole(journal) == old and read_journal(journal.path) == events


def test_without_a_whole_checkpoint_the_run_begins_anew_and_says_so(tmp_path: Path) -> None:
    (made(tmp_path, 3) / FILES[0]).unlink()
    journal = Journal(tmp_path / "journal.jsonl")
    assert PPOCheckpoints(tmp_path, 1.0)._newest_whole(journal) is None
    assert read_journal(journal.path)[0]["why"].endswith("the run begins anew")


def test_the_job_lists_and_verifies_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "ppo", 2)
    damaged = made(tmp_path / "ppo", 4)
    (tmp_path / "ppo" / "checkpoints" / "iteration-000006").mkdir()

    def job(verb: str, *words: str) -> tuple[int, str, dict[str, object]]:
        code = checkpoint.main([verb, "--run-dir", str(tmp_path), "--stage", "ppo", *words])
        out = capsys.readouterr().out
        return code, out, json.loads(out.splitlines()[-1])

    assert job("verify")[2]["whole"] == [2, 4]
    (damaged / FILES[2]).write_bytes(b"x")
    code, out, line = job("verify")
    assert code == 2 and "iteration-000004  DAMAGED" in out and FILES[2] in str(line["error"])
    assert job("verify", "--step", "2")[0] == 0 and job("verify", "--step", "3")[0] == 2
    _, out, line = job("ls")
    assert [row["note"] for row in line["checkpoints"]] == ["", "", "not committed"]  # type: ignore[attr-defined]
