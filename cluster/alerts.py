"""Alert rules for Prometheus. Thresholds are ours, and the first thing to adapt to a run: edit them here, then `python
-m cluster.dashboards`. `tests/cluster/test_alerts.py` shows for each rule a case that fires it and one that does not.
"""

from typing import Any

from ilm_ray.run.metrics import KL, RESPONSE_TOKENS, REWARD_MEAN, RUN_DISK_FREE, TRAIN_LOSS, TRAIN_STEP, TRAIN_STEPS

LOSS, STEP, STEPS, DISK = (row.exported for row in (TRAIN_LOSS, TRAIN_STEP, TRAIN_STEPS, RUN_DISK_FREE))
REWARD, DIVERGENCE, LENGTH = (row.exported for row in (REWARD_MEAN, KL, RESPONSE_TOKENS))


def _rule(name: str, severity: str, expression: str, lasting: str, says: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": name, "description": says},
    }


def _most(expression: str) -> str:
    return f"max by (SessionName, stage) ({expression})"


GROUPS: tuple[dict[str, Any], ...] = (
    {
        "name": "ilm_ray",
        "rules": [
            _rule(
                "IlmLossSpike",
                "warning",
                # Against the median of the last half hour: a loss that falls lies below it, a spike does not move it.
                f"{LOSS} > 1.3 * quantile_over_time(0.5, {LOSS}[30m])",
                "1m",
                "the loss of a stage is 30% above its median of the last half hour; incidents.jsonl says what the "
                "guard did",
            ),
            _rule(
                "IlmTrainingStalled",
                "critical",
                # The second term: it was there a quarter of an hour ago, so this is no start. The third: no end.
                # Over all processes: a rank that was replaced may still be exported for a while, and does not move.
                f"{_most(f'changes({STEP}[15m])')} == 0 and {_most(f'{STEP} offset 15m')} "
                f"and {_most(STEP)} < {_most(STEPS)}",
                "0m",
                "no step of training, or iteration of PPO, was logged for 15 minutes; the run's journal.jsonl, and the "
                "attempts/ of training, say what the ranks are doing",
            ),
            _rule(
                "IlmKLRunaway",
                "warning",
                f"{DIVERGENCE} > 30 and {DIVERGENCE} > 2 * min_over_time({DIVERGENCE}[30m])",
                "2m",
                "the policy is more than 30 nats a sequence from the SFT model and has doubled that within half an "
                "hour; raise ppo.kl_coefficient, or go back to an earlier checkpoint",
            ),
            _rule(
                "IlmRewardHackingOnset",
                "warning",
                # The signs that go together when a policy begins to exploit its reward model.
                f"{REWARD} > min_over_time({REWARD}[30m]) and {LENGTH} > 1.5 * min_over_time({LENGTH}[30m]) "
                f"and {DIVERGENCE} > 2 * min_over_time({DIVERGENCE}[30m])",
                "5m",
                "reward rises while answers grow half as long again and KL doubles within half an hour; read "
                "samples.jsonl before you believe the reward",
            ),
            _rule(
                "IlmDiskNearlyFull",
                "critical",
                f"{DISK} < 0.05 or ray_node_disk_utilization_percentage > 95",
                "1m",
                "less than 5% of a run folder's or a node's disk is free; checkpoints will fail when it is full",
            ),
        ],
    },
)
