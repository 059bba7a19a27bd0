"""Counters and gauges of an actor reach the node's metrics endpoint."""

import time
import urllib.request

import pytest

from ilm_ray.observe import metrics


def test_kinds_are_checked() -> None:
    assert metrics.gauge(metrics.KL) is metrics.gauge(metrics.KL)
    with pytest.raises(ValueError, match="is a counter"):
        metrics.gauge(metrics.DOCUMENTS)
    with pytest.raises(ValueError, match="is a gauge"):
        metrics.counter(metrics.KL)


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
