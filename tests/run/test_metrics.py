"""Counters and gauges of an actor reach the node's metrics endpoint."""

import contextlib
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from ilm_ray.run import metrics


def test_kinds_are_checked() -> None:
    assert metrics.gauge(metrics.KL) is metrics.gauge(metrics.KL)
    with pytest.raises(ValueError, match="is a counter"):
        metrics.gauge(metrics.DOCUMENTS)
    with pytest.raises(ValueError, match="is a gauge"):
        metrics.counter(metrics.KL)


@pytest.mark.parametrize("fails", [False, True])
def test_the_disk_is_watched_as_long_as_a_stage_lasts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool
) -> None:
    seen, ended = list[float](), list[dict[str, str]]()

    def set_(value: float, tags: dict[str, str]) -> None:
        assert tags == {"stage": "text"} and not ended
        seen.append(value)

    monkeypatch.setattr(metrics, "EVERY_S", 0.01)
    monkeypatch.setattr(metrics, "gauge", lambda row: SimpleNamespace(set=set_, end=ended.append))

    with pytest.raises(KeyError) if fails else contextlib.nullcontext(), metrics.watched_disk(tmp_path, "text"):
        deadline = time.monotonic() + 10
        while len(seen) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        if fails:
            raise KeyError
    assert len(seen) >= 3 and all(0 < value <= 1 for value in seen) and ended == [{"stage": "text"}]


def test_a_gauge_is_set_again_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[tuple[str, float]]()

    class Recorder:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert (name, tag_keys) == (metrics.TRAIN_STEP.name, ("stage",))

        def set(self, value: float, tags: dict[str, str]) -> None:
            seen.append((tags["stage"], value))

    monkeypatch.setattr(metrics, "Gauge", Recorder)
    monkeypatch.setattr(metrics, "EVERY_S", 0.01)
    monkeypatch.setattr(metrics, "_gauges", {})
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    step = metrics.gauge(metrics.TRAIN_STEP)
    for stage, value in (("sft", 1), ("sft", 2), ("ppo", 5)):
        step.set(value, {"stage": stage})
    deadline = time.monotonic() + 10
    while len(seen) < 9 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert seen[:3] == [("sft", 1), ("sft", 2), ("ppo", 5)]
    assert len(seen) >= 9 and set(seen[3:]) == {("sft", 2), ("ppo", 5)}
    step.end({"stage": "sft"})
    time.sleep(0.05)
    seen.clear()
    time.sleep(0.1)
    assert set(seen) == {("ppo", 5)}


def test_an_actor_s_metrics_appear_on_the_node(local_ray: None) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Worker:
        def work(self) -> None:
            for _ in range(3):
                metrics.counter(metrics.DOCUMENTS).inc(2, tags={"stage": "observed", "outcome": "kept"})
            metrics.gauge(metrics.TRAIN_LOSS).set(1.5, tags={"stage": "observed"})

    worker = Worker.remote()
    ray.get(worker.work.remote(), timeout=60)
    address = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 45
    seen: dict[str, float] = {}
    while time.monotonic() < deadline and len(seen) < 2:
        with urllib.request.urlopen(address, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        seen = {
            line.split("{")[0]: float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith(("ray_ilm_documents_total{", "ray_ilm_train_loss{")) and '"observed"' in line
        }
        time.sleep(1)
    ray.kill(worker)
    assert seen == {"ray_ilm_documents_total": 6.0, "ray_ilm_train_loss": 1.5}
