"""Ray Train with eight workers in three dimensions: the curve of one worker, and a resume in any other layout."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ilm_ray.config import Config
from ilm_ray.run.journal import Journal, read_journal
from ilm_ray.run.stage import Context
from ilm_ray.training.checkpoints import commit
from tests.training.real_run import read_sequences, real_config, recording, write_real_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
STEPS, MIDDLE = 50, 25
AFTER = 10  # steps that are compared behind a change of the cluster


@pytest.fixture(scope="module")
def eight_cpus() -> Any:
    import ray

    env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    started = not ray.is_initialized()
    if started:
        ray.init(
            address="local", num_cpus=10, include_dashboard=False, log_to_driver=False,
            object_store_memory=200 * 2**20, runtime_env={"env_vars": env},
        )  # fmt: skip
    yield
    if started:
        ray.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    return write_real_run(tmp_path_factory.mktemp("source"), shared_data)


def _run(folder: Path, source: Path, config: Config) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`; the run goes on where `folder` holds checkpoints."""
    stage = folder / "pretrain"
    stage.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer", "tokens"):
        if not (folder / name).exists():
            (folder / name).symlink_to(source / name)
    from ilm_ray.training.ray_train import run_training

    run_training(Context(config, stage, folder, Journal(folder / "journal.jsonl")), recording(folder), 0.1)
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]


LAYOUT = "{pp: 2, tp: 2, sequence_parallel: true, gradients: replica}"
OTHERS = {
    "dp4 tp2": (8, "{tp: 2, sequence_parallel: true}"),
    "pp4": (4, "{pp: 4, gradients: replica}"),
    "one worker": (1, "{}"),
}


def test_three_dimensions_give_the_curve_of_one_worker_and_any_layout_goes_on(
    eight_cpus: None, source: Path, tmp_path: Path
) -> None:
    alone = _run(tmp_path / "alone", source, real_config(STEPS, 1, f"pretrain.checkpoint_every={MIDDLE}"))
    settings = [f"pretrain.checkpoint_every={MIDDLE}", f"training.layout={LAYOUT}"]
    many = _run(tmp_path / "many", source, real_config(STEPS, 8, *settings))
    assert [row["step"] for row in many] == list(range(1, STEPS + 1))
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(alone, many, strict=True))
    print(f"50 steps, pp2 dp2 tp2 against one worker: losses differ by at most {apart:.2g}")
    assert apart < 1e-4 and alone[-1]["loss"] < 0.75 * alone[0]["loss"]
    middle = tmp_path / "many" / "pretrain" / "checkpoints" / commit.name_of(MIDDLE)
    for name, (workers, layout) in OTHERS.items():
        folder = tmp_path / name
        shutil.copytree(middle, folder / "pretrain" / "checkpoints" / middle.name)
        resumed = _run(folder, source, real_config(STEPS, workers, f"training.layout={layout}"))
        assert [row["step"] for row in resumed] == list(range(MIDDLE + 1, STEPS + 1))
        next_batch = read_sequences(folder, MIDDLE)
        assert len(next_batch) == 16 and next_batch == read_sequences(tmp_path / "many", MIDDLE)
        apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(resumed, many[MIDDLE:], strict=True))
        print(f"resumed as {name}: next batch {next_batch[0][:24]}..., losses differ by at most {apart:.2g}")
        assert apart < 1e-5


def test_layouts_that_the_planner_chooses_give_the_curve_of_one_worker(
    eight_cpus: None, source: Path, tmp_path: Path
) -> None:
    """`layout=auto`: each of two phases on four workers in the layout that is predicted to be its fastest."""
    phase = "{{name: {}, steps: {}, context: {}, rope_base: 1e4, batch_tokens: {}, max_lr: 3e-3, mixture: {{en: 1}}}}"
    # The second has two sequences a step: data parallelism alone would leave half of the workers idle.
    phases = f"pretrain.phases=[{phase.format('short', 20, 64, 1024)}, {phase.format('long', 10, 256, 512)}]"
    alone = _run(tmp_path / "alone", source, real_config(1, 1, phases, "training.micro_tokens=256"))
    chosen = real_config(1, 4, phases, "training.micro_tokens=256", "training.layout=auto")
    many = _run(tmp_path / "auto", source, chosen)
    for path in sorted((tmp_path / "auto" / "pretrain" / "attempts").glob("attempt-*/layout.txt")):
        print(path.read_text())
    assert [row["step"] for row in many] == list(range(1, 31))
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(alone, many, strict=True))
    print(f"layouts of the planner on four workers: losses differ by at most {apart:.2g}")
    assert apart < 1e-4


ELASTIC = """
import os, sys, threading, time, traceback
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from ilm_ray.run.stage import Context
from ilm_ray.run.journal import Journal, read_journal
from ilm_ray.training import ray_train
from tests.training.real_run import real_config, recording
from tests.training.test_eight_workers import SlowRecording

folder = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 150 * 2**20})
args = {"object_store_memory": 80 * 2**20}
cluster.add_node(num_cpus=5, **args)
second = cluster.add_node(num_cpus=3, **args)
env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.getcwd()}
ray.init(address=cluster.address, log_to_driver=False, runtime_env={"env_vars": env})
ray_train.ELASTIC_EVERY_S = 5.0
config = real_config(240, 8, "training.min_workers=2", "pretrain.checkpoint_every=5",
                     "training.keep_checkpoints=100", "pretrain.spike.window=4000")
stage = folder / "pretrain"
stage.mkdir(exist_ok=True)

def reached(step):
    rows = read_journal(stage / "metrics.jsonl")
    return bool(rows) and rows[-1]["step"] >= step

def starts():
    return [p for p in (stage / "attempts").glob("attempt-*/start.json")]

def train():
    try:
        context = Context(config, stage, folder, Journal(folder / "journal.jsonl"))
        ray_train.run_training(context, SlowRecording(folder), 0.1)
    except BaseException:
        traceback.print_exc()
        os._exit(7)

# Training in the thread: Ray starts nodes in the main one alone.
training = threading.Thread(target=train)
training.start()
while not reached(30): time.sleep(0.5)
known = len(starts())
cluster.remove_node(second, allow_graceful=False)
while len(starts()) == known or not reached(90): time.sleep(0.5)
cluster.add_node(num_cpus=3, **args)
training.join()
ray.shutdown()
cluster.shutdown()
"""


class SlowRecording:
    """A task maker whose steps take a while, so that the cluster can change under them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, config: Config, run_dir: Path) -> Any:
        task = recording(self.folder)(config, run_dir)
        inner = task.micro_batches

        def slow(step: int, rank: int, ranks: int) -> Any:
            time.sleep(0.3)
            return inner(step, rank, ranks)

        task.micro_batches = slow
        return task


def test_workers_go_and_come_back_while_tokens_a_step_stay(eight_cpus: None, source: Path, tmp_path: Path) -> None:
    """8 -> 5 -> 8 workers on a cluster of three nodes, one of which is lost and replaced."""
    folder = tmp_path / "elastic"
    folder.mkdir()
    for name in ("tokenizer", "tokens"):
        (folder / name).symlink_to(source / name)
    done = subprocess.run(
        [sys.executable, "-c", ELASTIC, str(folder)], timeout=1500, capture_output=True, text=True,
        cwd=Path(__file__).parents[2], env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    starts = [json.loads(p.read_text()) for p in sorted(folder.glob("pretrain/attempts/attempt-*/start.json"))]
    for event in read_journal(folder / "journal.jsonl"):
        print(event)
    assert [start["workers"] for start in starts] == [8, 5, 8]
    (fault,) = [json.loads(line) for line in (folder / "pretrain/attempts/diagnoses.jsonl").read_text().splitlines()]
    assert fault["category"] == "node_lost"
    assert [row["step"] for row in rows] == list(range(1, 241))
    assert {b["tokens"] - a["tokens"] for a, b in itertools.pairwise(rows)} == {1024}
    # One worker that goes on from the same checkpoints has the same curve. Over hundreds of steps at this rate the
    # rounding of sums in another order grows a thousandfold, so each change is looked at by itself.
    for start in starts[1:]:
        step = start["step"]
        name = commit.name_of(step)
        alone = tmp_path / f"alone-{step}"
        shutil.copytree(folder / "pretrain" / "checkpoints" / name, alone / "pretrain" / "checkpoints" / name)
        again = _run(alone, source, real_config(240, 1, "pretrain.spike.window=4000"))[:AFTER]
        apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(again, rows[step : step + AFTER], strict=True))
        print(f"from step {step} {start['workers']} workers against one: losses differ by at most {apart:.2g}")
        assert apart < 1e-4
    events = read_journal(folder / "journal.jsonl")
    assert [event["workers"] for event in events if event["kind"] == "resize"] == [8]
