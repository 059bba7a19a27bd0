"""Each rule, asked of Prometheus' own engine with made-up series: what fires it, and what must not."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.alerts import GROUPS

RULES = Path(__file__).parents[2] / "cluster" / "alerts.yml"
STAGE = '{stage="pretrain",SessionName="s",WorkerId="a"}'
PPO = '{stage="ppo",SessionName="s",WorkerId="c"}'
OTHER = '{stage="pretrain",SessionName="s",WorkerId="b"}'
# Series in promtool's notation, a sample every 15 seconds: `a+bxn` rises by b, n times. 240 samples are an hour.
CASES = {
    "a loss that jumps": ("IlmLossSpike", {f"ray_ilm_train_loss{STAGE}": "2x200 4x40"}, "59m", True),
    "a loss that falls": ("IlmLossSpike", {f"ray_ilm_train_loss{STAGE}": "8-0.03x240"}, "59m", False),
    "a loss that jitters": ("IlmLossSpike", {f"ray_ilm_train_loss{STAGE}": "2x120 2.4x10 2x110"}, "32m", False),
    "no step for 20 minutes": (
        "IlmTrainingStalled",
        {f"ray_ilm_train_step{STAGE}": "0+1x160 160x80", f"ray_ilm_train_steps{STAGE}": "900x240"},
        "59m",
        True,
    ),
    "steps go on": (
        "IlmTrainingStalled",
        {f"ray_ilm_train_step{STAGE}": "0+1x240", f"ray_ilm_train_steps{STAGE}": "900x240"},
        "59m",
        False,
    ),
    "training has ended": (
        "IlmTrainingStalled",
        {f"ray_ilm_train_step{STAGE}": "0+1x160 160x80", f"ray_ilm_train_steps{STAGE}": "160x240"},
        "59m",
        False,
    ),
    "a replaced rank that is still exported": (
        "IlmTrainingStalled",
        {
            f"ray_ilm_train_step{STAGE}": "0+1x100 100x140",
            f"ray_ilm_train_step{OTHER}": "_x99 100+1x140",
            f"ray_ilm_train_steps{STAGE}": "900x240",
        },
        "59m",
        False,
    ),
    "the first minutes": (
        "IlmTrainingStalled",
        {f"ray_ilm_train_step{STAGE}": "_x200 0x40", f"ray_ilm_train_steps{STAGE}": "_x200 900x40"},
        "59m",
        False,
    ),
    "no iteration of PPO for 20 minutes": (
        "IlmTrainingStalled",
        {f"ray_ilm_train_step{PPO}": "1x20 2x20 3x200", f"ray_ilm_train_steps{PPO}": "50x240"},
        "59m",
        True,
    ),
    "iterations of five minutes, after training that has ended": (
        "IlmTrainingStalled",
        {
            f"ray_ilm_train_step{STAGE}": "0+1x40 40x200",
            f"ray_ilm_train_steps{STAGE}": "40x240",
            f"ray_ilm_train_step{PPO}": " ".join(["_x40", *(f"{i}x19" for i in range(1, 11))]),
            f"ray_ilm_train_steps{PPO}": "_x40 50x200",
        },
        "59m",
        False,
    ),
    "PPO has ended, and its driver lives on": (
        "IlmTrainingStalled",
        {f"ray_ilm_train_step{PPO}": "1x20 2x20 3x200", f"ray_ilm_train_steps{PPO}": "3x240"},
        "59m",
        False,
    ),
    "KL runs away": ("IlmKLRunaway", {"ray_ilm_kl": "10x120 10+1x120"}, "50m", True),
    "KL is high from the start": ("IlmKLRunaway", {"ray_ilm_kl": "40x240"}, "59m", False),
    "KL doubles far below": ("IlmKLRunaway", {"ray_ilm_kl": "2x120 2+0.05x120"}, "50m", False),
    "reward, length and KL rise": (
        "IlmRewardHackingOnset",
        {"ray_ilm_reward_mean": "0+0.01x240", "ray_ilm_response_tokens": "50+1x240", "ray_ilm_kl": "1+0.1x240"},
        "40m",
        True,
    ),
    "reward rises alone": (
        "IlmRewardHackingOnset",
        {"ray_ilm_reward_mean": "0+0.01x240", "ray_ilm_response_tokens": "50x240", "ray_ilm_kl": "1+0.1x240"},
        "40m",
        False,
    ),
    "a run folder fills": (
        "IlmDiskNearlyFull",
        {f"ray_ilm_run_disk_free_share{STAGE}": "0.3x200 0.02x40"},
        "59m",
        True,
    ),
    "a run folder fills in PPO": ("IlmDiskNearlyFull", {f"ray_ilm_run_disk_free_share{PPO}": "0.02x40"}, "8m", True),
    "a node's disk fills": ("IlmDiskNearlyFull", {"ray_node_disk_utilization_percentage": "97x240"}, "30m", True),
    "room enough": (
        "IlmDiskNearlyFull",
        {"ray_node_disk_utilization_percentage": "80x240", f"ray_ilm_run_disk_free_share{STAGE}": "0.2x240"},
        "30m",
        False,
    ),
}


def test_every_rule_is_seen_to_fire_and_not_to_fire() -> None:
    seen = {(rule, fires) for rule, _, _, fires in CASES.values()}
    assert seen == {(rule["alert"], fires) for group in GROUPS for rule in group["rules"] for fires in (True, False)}


@pytest.mark.process
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is absent: apt-get install prometheus")
def test_rules_fire_when_they_should(tmp_path: Path) -> None:
    tests = [
        {
            "name": case,
            "interval": "15s",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{rule}",alertstate="firing"}}) or vector(0)',
                    "eval_time": at,
                    "exp_samples": [{"labels": "{}", "value": int(fires)}],
                }
            ],
        }
        for case, (rule, series, at, fires) in CASES.items()
    ]
    path = tmp_path / "cases.yml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is absent: apt-get install prometheus")
def test_prometheus_takes_our_configuration() -> None:
    config = RULES.parent / "prometheus.yml"
    done = subprocess.run(["promtool", "check", "config", str(config)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(len(group['rules']) for group in GROUPS)} rules found" in done.stdout
