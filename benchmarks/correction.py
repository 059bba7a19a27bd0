"""A sampler whose numerics are not the trainer's, without and with importance weights, over seeds.

    python benchmarks/correction.py [--seeds 3] [--iterations 60] [--bits 2] [--out DIR]

The task and the models are those of `verifiable.py`, with GRPO. The trainer computes in fp32. Arms: the same engine
(fp32, top_p 1); one in bf16 with top_p 0.9; one in bf16 with top_p 0.9 whose matrices keep `--bits` bits of their
mantissa, which stands for a sampler of a few bits; each of the last two without a correction and with
`ppo.correction=truncate` and `mask`. Printed for each arm and seed: share of right answers before the first step, in
the best and in the last five iterations, mean mismatch |log-probability gap| in nats a token, and the share of
corrected tokens. DIR/correction.html has the curves. Claim: where the coarse sampler's run is not right at its end,
the corrected run is.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import ray
import torch

from actors.group import Figures, timed
from actors.ppo.engines import Completion, TorchEngine
from actors.ppo.rollout import Rollout
from benchmarks.verifiable import WINDOW, Rows, play, settings
from ilm_ray.report.charts.basic import Series, line_chart
from ilm_ray.report.html import page

OTHER = {"engine_precision": "bf16", "top_p": 0.9, "logprob_gap_bound": 100.0}
CORRECTIONS = ("none", "truncate", "mask")
BITS = 2


class CoarseEngine(TorchEngine):
    """Samples from matrices with BITS bits of mantissa; the weights that it holds and that are verified are whole."""

    bits = BITS

    def generate(self, *arguments: Any) -> list[Completion]:
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        whole = [p.clone() for p in matrices]
        for matrix in matrices:
            matrix.copy_(coarse(matrix, self.bits))
        try:
            return super().generate(*arguments)
        finally:
            for matrix, values in zip(matrices, whole, strict=True):
                matrix.copy_(values)


class CoarseRollout(Rollout):
    """The rollout group's actor with such an engine."""

    @timed
    def build(self) -> tuple[None, Figures]:
        self.engine = CoarseEngine(self.settings)
        return None, {}


def coarse(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Values rounded to `bits` bits of mantissa, beside the leading one."""
    mantissa, exponent = torch.frexp(values.float())
    step = 2.0 ** (bits + 1)
    return torch.ldexp((mantissa * step).round() / step, exponent).to(values.dtype)


def arms() -> dict[str, tuple[dict[str, Any], type | None]]:
    """Arm -> settings beside those of `verifiable.py`, and the rollout actor."""
    found: dict[str, tuple[dict[str, Any], type | None]] = {"the same": ({}, None)}
    for name, actor in (("bf16", None), ("coarse", CoarseRollout)):
        for how in CORRECTIONS:
            found[f"{name}, {how}"] = ({**OTHER, "correction": how}, actor)
    return found


def summed_up(rows: Rows) -> dict[str, float]:
    """Shares of right answers, and the mismatch."""
    rewards = [row["reward"] for row in rows]
    windows = [statistics.fmean(rewards[i : i + WINDOW]) for i in range(len(rewards) - WINDOW + 1)]
    return {
        "first": round(rewards[0], 3),
        "best": round(max(windows), 3),
        "last": round(windows[-1], 3),
        "gap": round(statistics.fmean(row["logprob_gap"] for row in rows), 4),
        "corrected": round(statistics.fmean(row.get("corrected_share", 0.0) for row in rows), 3),
    }


def main() -> None:
    """Play all arms and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--bits", type=int, default=BITS)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate of the policy")
    parser.add_argument("--arms", nargs="*", choices=arms(), help="(default: all)")
    parser.add_argument("--out", type=Path, help="where runs and picture go (default: a temporary folder)")
    arguments = parser.parse_args()
    out = (arguments.out or Path(tempfile.mkdtemp(prefix="correction-"))).absolute()
    CoarseEngine.bits = arguments.bits
    env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": env})
    curves, ends = dict[str, Series](), dict[str, list[float]]()
    try:
        for arm, (others, actor) in arms().items():
            if arguments.arms and arm not in arguments.arms:
                continue
            played = list[Rows]()
            for seed in range(arguments.seeds):
                ppo = settings("grpo", arguments.iterations, policy_lr=arguments.rate, **others)
                played.append(play(out / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}", ppo, seed, actor))
                print(json.dumps({"arm": arm, "seed": seed, **summed_up(played[-1])}), flush=True)
            means = [statistics.fmean(rows[i]["reward"] for rows in played) for i in range(arguments.iterations)]
            curves[arm] = Series(arm, [(float(i), value) for i, value in enumerate(means)])
            ends[arm] = [summed_up(rows)["last"] for rows in played]
    finally:
        ray.shutdown()
    caption = f"Share of right answers, mean of {arguments.seeds} seeds"
    figure = page.figure(caption, line_chart(caption, list(curves.values()), "iteration"))
    (out / "correction.html").write_text(page.page("Samplers of other numerics", figure), encoding="utf-8")
    print(json.dumps({"last": ends, "picture": str(out / "correction.html")}))


if __name__ == "__main__":
    main()
