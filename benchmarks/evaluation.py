"""Warm evaluators on Ray against OpenCompass's own local runner: the same sets, the same endpoint, as many workers.

    python benchmarks/evaluation.py [--data DIR] [--sets N] [--examples N] [--workers N]

The endpoint answers at once with a constant, so what is timed is the running of tasks. Ours includes the start of the
evaluators, not of Ray. The local runner runs inference, then scoring, each in a process a set, as `opencompass` does.
Both must score every set the same.
"""

import argparse
import json
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ray

from actors.evaluator import ModelUnderTest, SetOf, plan_sets, run_sets
from ilm_ray.evaluation.data import write_data
from ilm_ray.evaluation.environment import interpreter
from ilm_ray.evaluation.suites import BENCHMARKS

DEADLINE_S = 3600.0
LOCAL_RUNNER = """
import json, os, sys
from pathlib import Path
folder, root, url, workers, examples, names = sys.argv[1:7]
os.environ.update(COMPASS_DATA_CACHE=root, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
os.chdir(root)
from mmengine.config import ConfigDict
from opencompass.partitioners import NaivePartitioner
from opencompass.runners import LocalRunner
from opencompass.tasks import OpenICLEvalTask, OpenICLInferTask
from ilm_ray.evaluation.opencompass.run import model_config
from ilm_ray.evaluation.opencompass.sets import build_arguments, sets_of
from ilm_ray.evaluation.suites import BENCHMARKS
wanted = json.loads(names)

def named(value):  # a set's configuration travels to its process as text
    if isinstance(value, dict):
        return {key: named(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [named(entry) for entry in value]
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value

chosen = [b for b in BENCHMARKS if b.key in wanted]
datasets = [
    ConfigDict(named(build_arguments(b, config)))
    for b in chosen
    for name, config in sets_of(b, Path(root), int(examples)).items()
    if name in wanted[b.key]
]
model = ConfigDict(named(model_config("chat", url, "model", 32768, None, 60.0)))
cfg = ConfigDict(models=[model], datasets=datasets, work_dir=folder)
for part, task in (("predictions", OpenICLInferTask), ("results", OpenICLEvalTask)):
    tasks = NaivePartitioner(out_dir=f"{folder}/{part}")(cfg)
    LocalRunner(task=ConfigDict(type=task), max_num_workers=int(workers))(tasks)
"""


class Constant(BaseHTTPRequestHandler):
    """Answers `A` to every conversation."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        payload = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "A"}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/eval")
    parser.add_argument("--sets", type=int, default=12)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Constant)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ray.init(address="local", num_cpus=arguments.workers + 1, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as temporary:
        root, python = Path(temporary) / "root", interpreter(None)
        write_data(arguments.data, root)
        url = f"http://127.0.0.1:{server.server_port}"
        ours = Path(temporary) / "ours"
        target = ModelUnderTest(url, "model", None, 32_768, str(root), str(ours), arguments.examples)
        chosen = [b for b in BENCHMARKS if b.key in ("BBH.chat", "AGIEval.chat", "MMLU.chat", "GSM8K.chat")]
        planned = [work for work in plan_sets(chosen, target, python, DEADLINE_S) if not work.missing]
        sets = planned[:: max(1, len(planned) // arguments.sets)][: arguments.sets]
        started = time.monotonic()
        run_sets(sets, target, python, arguments.workers, DEADLINE_S)
        warm = time.monotonic() - started
        started = time.monotonic()
        theirs = local_runner(sets, target, python, arguments.workers, Path(temporary) / "theirs")
        local = time.monotonic() - started
        mine = {work.name: json.loads((ours / "results" / work.file).read_text())["score"] for work in sets}
    bars = {"ratio": local / warm >= 2.5, "same_scores": mine == theirs}
    print(f"{len(sets)} sets of {arguments.examples} examples, {arguments.workers} workers: {warm:.1f} s warm")
    print(f"local runner: {local:.1f} s; ratio {local / warm:.2f}; {bars}")
    raise SystemExit(0 if all(bars.values()) else 1)


def local_runner(
    sets: list[SetOf], target: ModelUnderTest, python: Path, workers: int, folder: Path
) -> dict[str, float]:
    """Scores of the sets by OpenCompass's own runner, in an interpreter of its own."""
    wanted: dict[str, list[str]] = {}
    for work in sets:
        wanted.setdefault(work.benchmark.key, []).append(work.name)
    words = [str(folder), target.data, target.url, str(workers), str(target.examples), json.dumps(wanted)]
    repository = str(Path(__file__).resolve().parents[1])
    environment = {"PYTHONPATH": repository, "PATH": "/usr/bin:/bin", "HOME": str(folder.parent), "NO_PROXY": "*"}
    subprocess.run([str(python), "-c", LOCAL_RUNNER, *words], check=True, env=environment, timeout=DEADLINE_S)
    results = {path.stem: json.loads(path.read_text()) for path in (folder / "results").rglob("*.json")}
    return {work.name: results[work.name].get("score", results[work.name].get("accuracy")) for work in sets}


if __name__ == "__main__":
    main()
