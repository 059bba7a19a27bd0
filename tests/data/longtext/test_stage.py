"""The stage end to end: marks by id, the same verdicts for any batches and actors, dead actors, resuming."""

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.perplexity import PerplexityScorer, ScorerSettings, score_parts
from ilm_ray.base.jsonl import JsonObject, read_jsonl, write_jsonl
from ilm_ray.config import load_config
from ilm_ray.data.longtext.features import describe
from ilm_ray.data.longtext.models import load_scorer
from ilm_ray.data.longtext.perplexity import Cut, score_documents
from ilm_ray.report.report import write_report
from ilm_ray.run import manifest as manifests
from ilm_ray.run.journal import Journal
from ilm_ray.run.stage import run_stage
from jobs.long_text import STAGE
from tests.data.longtext.conftest import Made
from tests.jobs.test_command_line import run_job

MIN_BYTES, CUT = 1000, Cut(64, 6)
THRESHOLDS = """
"*": {"*": {conjunction_ratio: [0.02, null], perplexity_difference: [BOUND, null]}}
books: {"*": {conjunction_ratio: [null, null]}}
code: {"*": {perplexity_difference: [null, null]}}
"""


def run(made: Made, *settings: str) -> Path:
    config = load_config("nano", None, [f"long_text.min_bytes={MIN_BYTES}", f"long_text.segment_tokens={CUT.segment}",
            f"long_text.max_pairs={CUT.most}",
                                        "text.sources.books.input=x", *settings])  # fmt: skip
    run_stage(STAGE, config, made.run, Journal(made.run / "journal.jsonl"))
    return made.run / "long_text"


def files(folder: Path) -> dict[str, bytes]:
    """Everything that the manifest lists."""
    manifest = manifests.load(folder)
    assert manifest is not None
    return {name: (folder / name).read_bytes() for name in manifest.files}


@pytest.fixture
def thresholds(tmp_path: Path) -> str:
    """Bounds by which some documents fall at each step."""
    path = tmp_path / "thresholds.yaml"
    path.write_text(THRESHOLDS.replace("BOUND", "0.003"))
    return f"long_text.thresholds={path}"


@pytest.mark.usefixtures("local_ray")
def test_marks_are_those_of_a_plain_computation(made: Made, scorers: Path, thresholds: str) -> None:
    folder = run(made, thresholds, f"long_text.scorer={scorers / 'own'}")
    model = load_scorer(str(scorers / "own"), None, 2 * CUT.segment)
    fates: dict[int, str] = {}
    for document, row in made.rows.items():
        text, domain = row["text"], {"code": "code", "books": "books"}.get(row["dump"], "web")
        if len(text.encode()) <= MIN_BYTES:
            fates[document] = "short"
            continue
        score = describe([text], [row["language"]])[0]["conjunction_ratio"]
        difference = next(iter(score_documents([row], model, CUT, 99999)))["perplexity_difference"]
        if domain != "books" and score < 0.02:
            fates[document] = "conjunction_ratio"
        else:
            fates[document] = "perplexity_difference" if domain != "code" and difference < 0.003 else "kept"
    assert {"short", "conjunction_ratio", "perplexity_difference", "kept"} == set(fates.values())
    for shard, ids in made.shards.items():
        marks = np.load(folder / f"{shard}.long.npy", allow_pickle=False)
        assert marks.dtype == bool and marks.tolist() == [fates[document] == "kept" for document in ids]
    assert len(list(folder.rglob("*.long.npy"))) == len(made.shards)
    present = {document for ids in made.shards.values() for document in ids}
    rows = {int(row["id"]): row for path in folder.glob("*.jsonl.zst") for row in read_jsonl(path)}
    assert rows.keys() == {document for document in present if fates[document] != "short"}
    for document, row in rows.items():
        assert row.get("drop_rule", "kept") == fates[document]
        assert "drop_rule" not in row or row["drop_value"] == row[row["drop_rule"]] < row["threshold"]
    funnel = json.loads((folder / "funnel.json").read_text())
    counted = {step: Counter[str]() for step in ("length", "statistics", "perplexity")}
    for row in funnel:
        counted[row["step"]][row["rule"]] += row["documents"]
    mine = Counter(fates[document] for document in present)
    assert counted["length"] == {"short": mine["short"], "kept": len(rows)}
    assert counted["statistics"]["conjunction_ratio"] == mine["conjunction_ratio"]
    assert counted["perplexity"] == {k: mine[k] for k in ("perplexity_difference", "kept")}
    assert write_report(made.run).read_text(encoding="utf-8").count("just passed") > 3


@pytest.mark.usefixtures("local_ray")
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    made: Made, scorers: Path, thresholds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = thresholds, f"long_text.scorer={scorers / 'own'}"
    shutil.copytree(made.run, tmp_path / "whole")
    whole = files(run(replace(made, run=tmp_path / "whole"), *settings))
    folder = made.run / "long_text"

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ilm_ray.data.longtext.pipeline.mark_long", killed)
        run(made, *settings)
    (folder / "receipts" / "find_file-text-00001.json").unlink()
    (folder / "differences" / "text-00002-00000.jsonl.zst").unlink()
    untouched = (folder / "differences" / "text-00000-00000.jsonl.zst").stat().st_mtime_ns
    run(made, *settings)
    assert files(folder) == whole
    assert (folder / "differences" / "text-00000-00000.jsonl.zst").stat().st_mtime_ns == untouched
    assert not (folder / "candidates").exists()


def parts_of(made: Made, folder: Path, count: int) -> list[tuple[Path, Path]]:
    rows = [{"id": row["id"], "text": row["text"]} for row in made.rows.values()]
    work = []
    for number in range(count):
        part = folder / f"part-{number}.jsonl.zst"
        write_jsonl(part, rows[number::count])
        work.append((part, folder / f"out-{number}.jsonl.zst"))
    return work


def differences_in(work: list[tuple[Path, Path]]) -> dict[int, JsonObject]:
    return {row["id"]: row for _, out in work for row in read_jsonl(out)}


@pytest.mark.usefixtures("local_ray")
def test_differences_are_the_same_for_any_batches_and_actors(made: Made, scorers: Path, tmp_path: Path) -> None:
    runs = []
    for batch, workers, parts in ((8192, 1, 2), (100, 3, 5)):
        folder = tmp_path / str(parts)
        folder.mkdir()
        work = parts_of(made, folder, parts)
        score_parts(work, ScorerSettings(str(scorers / "own"), None, CUT, batch), workers)
        runs.append(differences_in(work))
    assert runs[0].keys() == runs[1].keys() == set(made.rows)
    for document, row in runs[0].items():
        assert runs[1][document].get("ending") == row.get("ending")
        assert runs[1][document]["differences"] == pytest.approx(row["differences"], abs=2.1e-4)


@pytest.mark.slow  # half a minute; a killed run is the nearer proof
@pytest.mark.usefixtures("local_ray")
def test_the_part_of_a_killed_actor_is_scored_by_its_next_life(
    made: Made, scorers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ScorerSettings(str(scorers / "own"), None, CUT, 100)
    alone, killed = (tmp_path / name for name in ("alone", "killed"))
    alone.mkdir(), killed.mkdir()
    score_parts(parts_of(made, alone, 4), settings, 1)
    before, deaths = set(scorer_pids()), list[int]()

    def kill_one() -> None:
        while not deaths:
            for pid in scorer_pids():
                if pid not in before and any(killed.glob("out-*")):
                    os.kill(pid, signal.SIGKILL)
                    deaths.append(pid)
                    break
            time.sleep(0.02)

    thread = threading.Thread(target=kill_one, daemon=True)
    thread.start()
    score_parts(parts_of(made, killed, 4), settings, 2)
    thread.join(5)
    assert deaths
    assert differences_in(parts_of(made, killed, 4)) == differences_in(parts_of(made, alone, 4))


def test_where_every_part_is_scored_no_actor_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": 1.0})
    (tmp_path / "out").touch()
    score_parts([(tmp_path / "part", tmp_path / "out")], ScorerSettings("none", None, CUT), 2)


def scorer_pids() -> list[int]:
    from ray._private.state import actors

    all_actors: list[dict[str, Any]] = list(actors().values())
    return [a["Pid"] for a in all_actors if a["ActorClassName"] == PerplexityScorer.__name__ and a["State"] == "ALIVE"]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_scorer_is_trained_in_the_run_where_none_is_named(made: Made, thresholds: str) -> None:
    folder = run(made, thresholds, "long_text.scorer_steps=3", "long_text.scorer_batch_tokens=512")
    assert (folder / "scorer" / "model" / "model.safetensors").is_file()
    manifest = manifests.load(folder)
    assert manifest is not None and manifest.metrics["scorer"]["training_step"] == 3
    assert manifest.metrics["summary"]["kept"] > 0


@pytest.mark.process
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("long_text.scorer_batch_tokens=1000", "a multiple of 2 * segment_tokens"),
        ("long_text.thresholds={path}", "did you mean 'conjunction_ratio'"),
    ],
)
def test_bad_input_is_one_line(setting: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "thresholds.yaml"
    path.write_text("web: {en: {conjunktion_ratio: [0, 1]}}")
    code, summary, lines = run_job("long_text", setting.format(path=path), "--run-dir", str(tmp_path / "run"))
    assert code == 2 and summary["status"] == "refused"
    assert len(lines) == 1 and words in lines[0]
    assert not (tmp_path / "run").exists()
