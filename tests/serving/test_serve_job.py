"""The job itself on a cluster that counts GPUs which nobody needs: what it books, says and refuses, and how it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CLUSTER = """
import json, os, signal, subprocess, sys, time
import ray

model, cases = sys.argv[1], json.loads(sys.argv[2])
made = ray.init(num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
environment = os.environ | {"RAY_ADDRESS": made.address_info["gcs_address"]}
for words in cases:
    command = [sys.executable, "jobs/serve.py", f"serve.model={model}", "serve.port=0", *words]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    while words == [] and ray.available_resources().get("GPU", 0.0) == 2.0 and job.poll() is None:
        time.sleep(0.2)  # no GPU is there to compute on: what counts is that one is booked
    free = ray.available_resources().get("GPU", 0.0)
    if words == []:
        job.send_signal(signal.SIGTERM)
    lines = []
    for line in job.stdout:
        lines.append(line.strip())
        if line.startswith("serving"):
            job.send_signal(signal.SIGTERM)
    print(json.dumps([job.wait(), free, lines]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(900)
def test_it_books_gpus_promises_the_models_context_and_ends_at_a_signal(small_run: Path) -> None:
    cases = [[], ["serve.gpus=0"], ["serve.context=32769"], ["serve.gpus=3"]]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    run = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(small_run / "sft"), json.dumps(cases)],
        cwd=REPOSITORY,
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    on_gpu, on_cpu, too_long, too_many = (json.loads(line) for line in run.stdout.splitlines() if line.startswith("["))
    assert on_gpu[:2] == [0, 1.0]
    assert on_cpu[:2] == [0, 2.0] and "4096 tokens in fp32 on a CPU" in on_cpu[2][0]
    for (code, _, lines), line in ((too_long, "set at most serve.context=32768"), (too_many, "this node has 2")):
        assert code == 2 and line in json.loads(lines[-1])["error"]
