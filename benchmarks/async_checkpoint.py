"""Cost of checkpoints in step time: saved beside training, and in line with it, against none, in one run.

    python benchmarks/async_checkpoint.py [--ranks 2] [--steps 20] [--rounds 6] [--hidden 128] [--tokens 2048]

Training steps of InternLM2 (nano's shape unless --hidden says otherwise) with FSDP2 and AdamW on gloo ranks. A round is
--steps steps; rounds without a checkpoint, with one saved beside training and with one saved in line follow each other
in turn. A round that saves includes the wait for whatever is left of the save at its end. The claim: beside training,
one checkpoint every 20 steps costs less than 3% of step time.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import CausalLM, Packed, Shape, initialize
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.checkpoints.checkpoints import Checkpoints, Storage
from ilm_ray.training.optimizer import adamw
from ilm_ray.training.parallel.parallelize import ParallelModel, parallelize

LIMIT = 0.03  # of step time
KINDS = ("none", "beside", "in line")


@dataclass(frozen=True)
class Round:
    """Wall seconds of a round, of the calls that save in it, and CPU seconds of this process."""

    seconds: float
    blocked: float
    cpu: float


class Trainer:
    """Model, optimizer and one batch, stepped as the training loop does."""

    def __init__(self, hidden: int, tokens: int) -> None:
        shape = Shape(
            vocab_size=2048,
            layers=4,
            hidden=hidden,
            kv_heads=2,
            queries_per_kv=2,
            head_dim=hidden // 4,
            mlp_hidden=3 * hidden,
            rope_base=50_000.0,
        )
        model = CausalLM(shape, 4096)
        initialize(model, 0)
        self.model: ParallelModel = parallelize(model, Layout(), torch.device("cpu"), "fp32")
        self.optimizer = adamw(self.model.parts[0].named_parameters(), (0.9, 0.95), 1e-8, 0.1)
        generator = torch.Generator().manual_seed(dist.get_rank())
        rows = torch.randint(0, 2048, (tokens // 256, 256), generator=generator).tolist()
        batch = Packed.of(rows)
        self.window = (batch, batch.tokens.roll(-1))

    @property
    def parts(self) -> list[tuple[torch.nn.Module, torch.optim.Optimizer]]:
        return [(self.model.parts[0], self.optimizer)]

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model.backward_windows([self.window], 1.0 / len(self.window[1]))
        self.model.clip_gradients(1.0)
        self.optimizer.step()


def one_round(trainer: Trainer, checkpoints: Checkpoints, kind: str, number: int, steps: int) -> Round:
    dist.barrier()
    started, cpu, blocked = time.perf_counter(), time.process_time(), 0.0
    for step in range(steps):
        trainer.step()
        if step == 0 and kind != "none":
            before = time.perf_counter()
            checkpoints.save(number, trainer.parts, {}, last=kind == "in line")
            blocked += time.perf_counter() - before
    before = time.perf_counter()
    assert checkpoints.wait()
    blocked += time.perf_counter() - before
    dist.barrier()
    return Round(time.perf_counter() - started, blocked, time.process_time() - cpu)


def run(rank: int, ranks: int, port: int, a: argparse.Namespace, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    trainer, checkpoints = Trainer(a.hidden, a.tokens), Checkpoints(Path(folder), Storage())
    for _ in range(3):
        trainer.step()
    checkpoints.save(0, trainer.parts, {}, last=True)  # the first one makes its buffers
    rounds: dict[str, list[Round]] = {kind: [] for kind in KINDS}
    for number in range(a.rounds):
        order = KINDS[number % 3 :] + KINDS[: number % 3]  # none has the same neighbour each time
        for i, kind in enumerate(order):
            rounds[kind].append(one_round(trainer, checkpoints, kind, 1 + 3 * number + i, a.steps))
    size = commit.read(commit.committed(Path(folder))[-1]).bytes
    checkpoints.finish()
    if rank == 0:
        report(rounds, size, a, sum(p.numel() for p in trainer.model.parameters()))
    dist.destroy_process_group()


def report(rounds: dict[str, list[Round]], size: int, a: argparse.Namespace, parameters: int) -> None:
    step = statistics.median(r.seconds for r in rounds["none"]) / a.steps
    print(f"{parameters / 1e6:.1f}M parameters, checkpoint {size / 2**20:.0f} MiB, step {1e3 * step:.0f} ms")
    print(f"{'checkpoints':<12} {'round s':>9} {'over none':>10} {'blocked s':>10} {'CPU s':>8}")
    cost = {}
    for kind in KINDS:
        # Neighbouring rounds are compared: other load on the machine changes slowly.
        pairs = zip(rounds[kind], rounds["none"], strict=True)
        cost[kind] = statistics.median(mine.seconds / none.seconds - 1 for mine, none in pairs)
        seconds, blocked, cpu = (
            statistics.median(getattr(r, name) for r in rounds[kind]) for name in ("seconds", "blocked", "cpu")
        )
        print(f"{kind:<12} {seconds:>9.2f} {cost[kind]:>10.1%} {blocked:>10.3f} {cpu:>8.2f}")
    line = {
        "benchmark": "async_checkpoint",
        "cost_beside": round(cost["beside"], 4),
        "cost_in_line": round(cost["in line"], 4),
        "ratio": round(cost["beside"] / cost["in line"], 3) if cost["in line"] else None,
        "limit": LIMIT,
        "within": cost["beside"] < LIMIT,
        "mib": round(size / 2**20, 1),
        "step_ms": round(1e3 * step, 1),
        "seconds": {kind: [round(r.seconds, 3) for r in rounds[kind]] for kind in KINDS},
    }
    print(json.dumps(line | vars(a)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="of a round; one checkpoint in each")
    parser.add_argument("--rounds", type=int, default=6, help="of each kind")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=2048, help="of a step, on each rank; a multiple of 256")
    a = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="async_checkpoint-", dir=Path.cwd())  # on a disk: /tmp may be memory
    try:
        mp.spawn(run, (a.ranks, port, a, folder), nprocs=a.ranks)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
