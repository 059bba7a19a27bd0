"""A node that Ray drains is left in time: a checkpoint at the step under way, and other nodes go on from it.

In `make test-all`: a cluster of four nodes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ilm_ray.run.journal import read_journal
from tests.processes import run_ranks
from tests.training.test_loop import differences, run

pytestmark = pytest.mark.slow

SCRIPT = """
import os, sys, threading, time, traceback
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from ilm_ray.config import load_config
from ilm_ray.run.stage import Context
from ilm_ray.run.journal import Journal, read_journal
from ilm_ray.training import ray_train
from tests.training.test_preemption import make_slow

folder = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 150 * 2**20})
args = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
nodes = [cluster.add_node(**args) for _ in range(2)]
env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.getcwd()}
ray.init(address=cluster.address, log_to_driver=False, runtime_env={"env_vars": env})
config = load_config("nano", None, ["training.clip_norm=0.5"])
stage = folder / "toy"
stage.mkdir(exist_ok=True)

def train():
    try:
        context = Context(config, stage, folder, Journal(folder / "journal.jsonl"))
        ray_train.run_training(context, make_slow, weight_decay=0.1)
    except BaseException:
        traceback.print_exc()
        os._exit(7)

training = threading.Thread(target=train)  # Ray starts nodes in the main thread alone
training.start()
def reached(step):
    rows = read_journal(stage / "metrics.jsonl")
    return bool(rows) and rows[-1]["step"] >= step
while not reached(1): time.sleep(0.2)
cluster.add_node(**args)
os.system(
    f"{Path(sys.executable).with_name('ray')} drain-node --address {cluster.address} --node-id {nodes[1].node_id} "
    "--reason DRAIN_NODE_REASON_PREEMPTION --reason-message spot --deadline-remaining-seconds 300"
)
(folder / "drained").touch()
training.join()
ray.shutdown()
cluster.shutdown()
"""


def make_slow(config: object, run_dir: Path) -> object:
    """The toy task; its third step waits until a node is drained and the notice has had time to arrive."""
    import time

    from tests.training.test_loop import Toy

    task = Toy(None)
    inner = task.micro_batches

    def slow(step: int, rank: int, ranks: int) -> list[object]:
        until = time.monotonic() + 120
        while step == 1 and not (run_dir / "drained").exists() and time.monotonic() < until:
            time.sleep(0.2)
        if step == 1:
            time.sleep(4)
        return inner(step, rank, ranks)

    task.micro_batches = slow  # type: ignore[method-assign]
    return task


def test_a_drained_node_costs_no_step(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], timeout=500, capture_output=True, text=True,
        cwd=Path(__file__).parents[2], env=os.environ | environment | {"RAY_TRAIN_V2_ENABLED": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "toy"
    starts = [json.loads(path.read_text()) for path in sorted(folder.glob("attempts/*/start.json"))]
    assert [start["step"] for start in starts] == [0, 2] and [start["workers"] for start in starts] == [2, 2]
    assert (folder / "attempts" / "attempt-0000" / "left").exists()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    (event,) = [event for event in read_journal(tmp_path / "journal.jsonl") if event["kind"] == "leave"]
    assert event["lost_steps"] == 0 and event["recovery_seconds"] < 120
    assert not (folder / "attempts" / "diagnoses.jsonl").exists()  # no fault
    run_ranks(run, 1, str(tmp_path / "alone"))
    assert differences(folder, tmp_path / "alone") < 1e-9
