"""The whole nano pipeline on a local cluster, stopped once and submitted again, while a real Prometheus watches."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from cluster.dashboards import panels
from ilm_ray.run.journal import read_journal
from ilm_ray.run.metrics import BAD_STEPS, FAILURES, GPU_PEAK, GPU_RESERVED, MFU, TABLE, Board
from ilm_ray.training.checkpoints import commit
from tests.chaos.test_killed_driver import SMALL
from tests.cluster.clusters import ROOT, LocalCluster, local_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is absent: apt-get install prometheus"),
]
# Metrics that a sound run on CPUs lacks: faults, a GPU's memory, and shares of a device's peak.
NOT_IN_A_SOUND_RUN = {metric.exported for metric in (BAD_STEPS, FAILURES, GPU_PEAK, GPU_RESERVED, MFU)}


@dataclass(frozen=True)
class Prometheus:
    url: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Series of the last hour; [] where there are none. Raises HTTPError for a query that is none."""
        now = time.time()
        arguments = {"query": query, "start": now - 3600, "end": now, "step": 15}
        series: list[dict[str, Any]] = self.get(f"query_range?{urllib.parse.urlencode(arguments)}")["result"]
        return series

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=30) as answer:
            return json.loads(answer.read())["data"]


@dataclass(frozen=True)
class Watched:
    prometheus: Prometheus
    run_dir: Path
    stopped: str  # status of the first job
    stopped_at: int  # newest checkpoint of pre-training then
    summary: dict[str, Any]  # last line of the second job


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    with local_cluster(cpus=6) as cluster, prometheus(cluster, folder) as server:
        run_dir, settings = folder / "run", folder / "settings.yaml"
        settings.write_text(SMALL.replace("steps: 20,", "steps: 150,"))  # long enough for each gauge to be scraped
        words = ["python", "jobs/pipeline.py", "--run-dir", str(run_dir), "--config", str(settings)]
        submit(cluster, "first", words)
        log = run_dir / "pretrain" / "metrics.jsonl"
        wait_for(lambda: log.exists() and len(read_journal(log)) >= 6, 1500, "training did not begin")
        assert cluster.ray("job", "stop", "first", timeout_s=400).returncode == 0
        stopped = status(cluster, "first")
        stopped_at = commit.newest_step(run_dir / "pretrain" / "checkpoints")
        submit(cluster, "second", words)
        wait_for(lambda: status(cluster, "second") not in ("PENDING", "RUNNING"), 2400, "the second job did not end")
        lines = cluster.ray("job", "logs", "second").stdout.splitlines()
        summary = next(json.loads(line) for line in reversed(lines) if line.startswith('{"job"'))
        time.sleep(20)  # one more scrape
        yield Watched(server, run_dir, stopped, stopped_at, summary)


@contextmanager
def prometheus(cluster: LocalCluster, folder: Path) -> Iterator[Prometheus]:
    """Prometheus with our configuration, its discovery file replaced by that of the test's cluster."""
    config = yaml.safe_load((ROOT / "cluster" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "5s"}
    config["rule_files"] = [str(ROOT / "cluster" / name) for name in config["rule_files"]]
    (discovery,) = config["scrape_configs"][0]["file_sd_configs"]
    discovery["files"] = [str(cluster.folder / Path(discovery["files"][0]).name)]
    discovery["refresh_interval"] = "2s"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{cluster.base + 8}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
        try:
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()
            process.wait(60)


def submit(cluster: LocalCluster, name: str, words: list[str]) -> None:
    arguments = ["job", "submit", "--no-wait", "--submission-id", name, "--working-dir", str(ROOT), "--", *words]
    done = cluster.ray(*arguments, timeout_s=300)
    assert done.returncode == 0, done.stdout + done.stderr


def status(cluster: LocalCluster, name: str) -> str:
    """Ray says "was stopped" or "succeeded" of a job that ended, and its state's name of one that goes on."""
    answer = cluster.ray("job", "status", name)
    words = (answer.stdout + answer.stderr).upper()
    return next(word for word in ("PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED") if word in words)


def wait_for(reached: Callable[[], bool], seconds: float, why: str) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, why
        time.sleep(1)


def test_a_stopped_job_left_a_checkpoint_and_the_next_one_went_on_from_it(watched: Watched) -> None:
    assert watched.stopped == "STOPPED"
    assert watched.stopped_at >= 6  # pretrain.checkpoint_every is 5: this one was made for the stop
    starts = [json.loads(p.read_text()) for p in sorted(watched.run_dir.glob("pretrain/attempts/*/start.json"))]
    assert [start["step"] for start in starts] == [0, watched.stopped_at]
    assert (watched.run_dir / "pretrain" / "attempts" / "attempt-0000" / "stopped").exists()
    events = read_journal(watched.run_dir / "journal.jsonl")
    assert {e["stage"] for e in events if e["kind"] == "skip"} >= {"text", "code", "tokens"}
    assert watched.summary["status"] == "done"


def test_every_metric_of_the_table_is_scraped(watched: Watched) -> None:
    missing = {row.exported for row in TABLE if not watched.prometheus.ask(row.exported)}
    assert missing == NOT_IN_A_SOUND_RUN
    for row in TABLE:
        for series in watched.prometheus.ask(row.exported):
            assert set(row.tags) <= series["metric"].keys(), series["metric"]


@pytest.mark.parametrize("board", get_args(Board))
def test_every_panel_shows_something(watched: Watched, board: Board) -> None:
    """As Grafana asks, with all sessions chosen."""
    empty = {p.title: p.query for p in panels(board) if not watched.prometheus.ask(p.query.replace("$session", ".*"))}
    assert {title for title, query in empty.items() if not any(name in query for name in NOT_IN_A_SOUND_RUN)} == set()


def test_all_targets_are_up_and_the_rules_are_loaded(watched: Watched) -> None:
    targets = watched.prometheus.get("targets")["activeTargets"]
    assert targets and all(target["health"] == "up" for target in targets), targets
    rules = [rule for group in watched.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert rules and all(rule["health"] == "ok" for rule in rules), rules
