"""Predicted against measured step times of layouts on this CPU, before and after a calibration.

    OMP_NUM_THREADS=1 python benchmarks/planner.py [--ranks 2 8]

Claim: after a calibration the planner ranks layouts as they are measured. Before it the planner has the data sheet's
core and the number of ranks that share one. Printed: each layout's times, Spearman's rank correlation, mean error.
Ranks beyond the cores contend in the calibration as they do in the steps.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scipy.stats import spearmanr

from ilm_ray.config.layout import Layout
from ilm_ray.data.tokens.mixture import packed_from_arrays
from ilm_ray.model.internlm2 import CausalLM, Shape
from ilm_ray.training.optimizer import adamw
from ilm_ray.training.parallel.local import run_ranks
from ilm_ray.training.parallel.parallelize import parallelize
from ilm_ray.training.plan.calibration import read_calibration, write_calibration
from ilm_ray.training.plan.cards import DEVICES
from ilm_ray.training.plan.planner import predict, written
from ilm_ray.training.plan.step import OptimizerStep

SHAPE = Shape(vocab_size=4096, layers=4, hidden=256, kv_heads=4, queries_per_kv=2, head_dim=32, mlp_hidden=768)
STEP = OptimizerStep(context=256, sequences=8, at_once=1, precision="fp32", loss_chunk=512)
WARM, STEPS = 1, 2
WHOLE: dict[str, Any] = {"parameters": "replica", "gradients": "replica", "optimizer": "replica"}
FULL: dict[str, Any] = {"parameters": "full", "gradients": "full", "optimizer": "full"}


def layouts(ranks: int) -> list[Layout]:
    """Every kind of parallelism on `ranks` ranks, alone and, where there are enough, together."""
    cases = [
        Layout(**WHOLE),
        Layout(**FULL),
        Layout(parameters="replica", gradients="replica", optimizer="full"),
        Layout(tp=2, **WHOLE),
        Layout(tp=2, sequence_parallel=True, **WHOLE),
        Layout(cp=2, **FULL),
        Layout(cp=2, cp_kind="gather", **FULL),
        Layout(pp=2, **WHOLE),
    ]
    if ranks >= 8:
        cases += [
            Layout(pp=2, tp=2, **WHOLE),
            Layout(cp=2, tp=2, **FULL),
            Layout(tp=4, sequence_parallel=True, **FULL),
            Layout(pp=4, **WHOLE),
        ]
    return [layout.on(ranks) for layout in cases]


def measure(path: str, cases: list[Layout]) -> None:
    """Mean seconds of a step of each layout, of the slowest rank."""
    means = []
    tokens = np.arange(STEP.context) % SHAPE.vocab_size
    for layout in cases:
        model = parallelize(CausalLM(SHAPE, STEP.loss_chunk), layout, torch.device("cpu"), STEP.precision)
        optimizers = [adamw(part.named_parameters(), (0.9, 0.95), 1e-8, 0.1) for part in model.parts]
        windows = [(packed_from_arrays([tokens]), torch.from_numpy(tokens)) for _ in range(STEP.micros(layout))]
        for number in range(WARM + STEPS):
            if number == WARM:
                dist.barrier()
                start = time.perf_counter()
            for optimizer in optimizers:
                optimizer.zero_grad()
            model.backward_windows(windows, 1e-4)
            model.clip_gradients(1.0)
            for optimizer in optimizers:
                optimizer.step()
        taken = torch.tensor((time.perf_counter() - start) / STEPS, dtype=torch.float64)
        dist.all_reduce(taken, dist.ReduceOp.MAX)
        means.append(float(taken))
    if dist.get_rank() == 0:
        Path(path).write_text(json.dumps(means))


def compare(ranks: int, folder: Path) -> dict[str, Any]:
    """Calibrate and measure on `ranks` processes; print the table; the figures."""
    cases, cores = layouts(ranks), len(os.sched_getaffinity(0))
    calibration, measured_file = folder / f"calibration-{ranks}.json", folder / f"measured-{ranks}.json"
    write_calibration(calibration, SHAPE, STEP.precision, ranks, DEVICES["cpu"])
    run_ranks(measure, ranks, str(measured_file), cases, deadline_s=600)
    measured = json.loads(measured_file.read_text())
    devices = {
        "before": replace(DEVICES["cpu"], ranks_a_core=max(1.0, ranks / cores)),
        "after": read_calibration(calibration)[0],
    }
    predicted = {
        when: [predict(SHAPE, layout, STEP, device).times.total for layout in cases] for when, device in devices.items()
    }
    print(f"\n{ranks} ranks on {cores} cores, load {os.getloadavg()[0]:.1f}; seconds a step")
    print(f"{'layout':45} {'measured':>9} {'before':>9} {'after':>9}")
    for number, layout in enumerate(cases):
        row = measured[number], predicted["before"][number], predicted["after"][number]
        print(f"{written(layout):45} " + " ".join(f"{seconds:9.3f}" for seconds in row))
    figures: dict[str, Any] = {"ranks": ranks, "cores": cores, "layouts": len(cases)}
    for when, times in predicted.items():
        errors = [abs(p / m - 1) for p, m in zip(times, measured, strict=True)]
        figures[f"rank_correlation_{when}"] = round(float(spearmanr(times, measured).statistic), 3)
        figures[f"mean_error_{when}"] = round(float(np.mean(errors)), 3)
        # Cost of a choice by the prediction: measured time of the chosen layout over that of the fastest.
        figures[f"chosen_to_fastest_{when}"] = round(measured[int(np.argmin(times))] / min(measured), 3)
    print(figures)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8])
    ranks = parser.parse_args().ranks
    with tempfile.TemporaryDirectory() as folder:
        runs = [compare(number, Path(folder)) for number in ranks]
    print(json.dumps({"benchmark": "planner", "runs": runs}))


if __name__ == "__main__":
    main()
