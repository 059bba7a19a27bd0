"""PPO of a finished run whose critic begins with the reward model's body, or with the SFT model's (report Figure 9).

    python benchmarks/critic_start.py --run runs/demo [--seeds 3] [--iterations 30] [--out DIR]

From the run's SFT and reward models; policy, prompts and seeds are the same in both arms, so is the critic's warm-up.
Printed for each arm, means over seeds with standard errors: the value loss in the warm-up's last iteration and over the
first ten iterations that train the policy, the reward of the last five, and the difference of the arms by seed.
DIR/critic.html has the curves. Claim (report section 4.2.3): the critic from the reward model has the lower value loss
when the policy begins to train.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.ppo.driver import PPORun
from actors.ppo.roles import ppo_roles
from benchmarks.ppo_mix import NEEDS, WARMUP, Rows, curves, finished_run, first_and_last, standard_error
from ilm_ray.config import Config, load_config
from ilm_ray.report.html import page
from ilm_ray.run.journal import Journal
from ilm_ray.run.stage import Context
from jobs import ppo
from jobs.frame.cluster import LocalRay

ARMS = ("reward model", "SFT model")
EARLY = 10  # iterations behind the warm-up
SETTINGS = (f"critic_warmup={WARMUP}", "prompts_per_iteration=32", "max_new_tokens=64", "validate_every=null")


def configuration(seed: int, iterations: int) -> Config:
    chosen = [f"ppo.{setting}" for setting in (*SETTINGS, f"iterations={iterations}")]
    return load_config("nano", None, [*chosen, f"seed={seed}"])


def play(run: Path, folder: Path, config: Config, arm: str) -> Rows:
    """Metric rows of PPO in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NEEDS:
        if not (folder / name).exists():
            (folder / name).symlink_to(run / name, target_is_directory=True)
    inputs, _ = ppo.inputs_of(Context(config, folder / "ppo", folder, Journal(folder / "journal.jsonl")))
    roles = ppo_roles(config.ppo, inputs, folder / "ppo")
    if arm == "SFT model":
        roles = [
            replace(role, settings=replace(role.settings, model=inputs.policy)) if role.name == "critic" else role
            for role in roles
        ]
    with PPORun(config.ppo, inputs, folder / "ppo", roles=roles) as played:
        return played.run(lambda ids: "")


def figures(rows: Rows) -> dict[str, float]:
    """The figures of a run."""
    losses = [row["value_loss"] for row in rows]
    return {
        "value_loss_warm": losses[WARMUP - 1],
        "value_loss_early": statistics.fmean(losses[WARMUP : WARMUP + EARLY]),
        "reward_last": first_and_last(rows, "reward")[1],
    }


def told(values: list[float]) -> list[float]:
    """Mean and standard error."""
    return [round(statistics.fmean(values), 4), round(standard_error(values), 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a run folder whose reward stage is finished")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--out", type=Path, help="where runs and picture go (default: a temporary folder)")
    arguments = parser.parse_args()
    run = finished_run(arguments.run)
    out = (arguments.out or Path(tempfile.mkdtemp(prefix="critic-"))).absolute()
    played: dict[str, list[Rows]] = {arm: [] for arm in ARMS}
    with LocalRay(load_config("nano", None, ["ray.dashboard=false"])):
        for seed in range(arguments.seeds):
            for number, arm in enumerate(ARMS):
                config = configuration(seed, arguments.iterations)
                played[arm].append(play(run, out / f"seed-{seed}-{number}", config, arm))
                print(json.dumps({"seed": seed, "critic": arm, **figures(played[arm][-1])}), file=sys.stderr)
    found = {arm: [figures(rows) for rows in runs] for arm, runs in played.items()}
    names = tuple(found[ARMS[0]][0])
    summary: dict[str, Any] = {arm: {n: told([row[n] for row in rows]) for n in names} for arm, rows in found.items()}
    pairs = list(zip(*found.values(), strict=True))
    summary["difference by seed"] = {
        name: told([theirs[name] - ours[name] for ours, theirs in pairs]) for name in names
    }
    captions = {"value_loss": "Value loss", "reward": "Reward", "kl": "KL to the SFT model, nats a response"}
    charts = page.join(curves(played, key, f"{caption}, mean over seeds") for key, caption in captions.items())
    (out / "critic.html").write_text(page.page("Where PPO's critic begins", charts), encoding="utf-8")
    mean, error = summary["difference by seed"]["value_loss_early"]
    print(json.dumps({**summary, "holds": mean > 2 * error, "picture": str(out / "critic.html")}))


if __name__ == "__main__":
    main()
