"""What a preset needs of a cluster, and who is refused for want of it."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.config.fit import check_ppo_fits, fewer_line, fitted, gpus_needed, group_sizes, too_small
from ilm_ray.config.load import PRESETS
from ilm_ray.run.stage import Context, Result, Stage
from ilm_ray.training.plan.fits import Machine, require_fit
from jobs.frame import stages as frame

LARGE = {"cpus": 256.0, "memory_gib": 4096.0}


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ([], 32),  # every rank has a GPU of its own
        (["ppo.colocate=true"], 8),  # rank k of every group on one
        (["ppo.colocate=true", "ppo.rollout_engines=12"], 12),
        (["ppo.policy_ranks=1"], 25),  # the critic's ranks still may not share
        (["ppo.policy_ranks=1", "ppo.critic_ranks=1", "ppo.scorer_gpus=2"], 18),  # nor may those of a split model
        (["ppo.policy_ranks=1", "ppo.critic_ranks=1"], 1),  # no group of NCCL's: shares of whatever there is
    ],
)
def test_the_fewest_gpus_of_ppo(settings: list[str], gpus: int) -> None:
    config = load_config("1_8b", None, settings)
    assert gpus_needed(config) == (8, gpus)
    check_ppo_fits(config.ppo, gpus)
    if gpus > 1:
        with pytest.raises(UserError, match=r"lower ppo\.\*_ranks"):
            check_ppo_fits(config.ppo, gpus - 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_cluster_of_what_is_needed_is_enough(preset: str) -> None:
    config = load_config(preset, None, ["ray.fewer_ranks=false"])
    need = max(gpus_needed(config))
    assert too_small(config, gpus=need, **LARGE) is None
    assert too_small(config, gpus=need - 1, **LARGE) is not None


def test_room_for_pretraining_alone_is_refused_before_it_is_paid_for() -> None:
    assert "the 32 ranks of PPO have 8 GPU" in str(too_small(load_config("1_8b"), gpus=8, **LARGE))
    assert too_small(load_config("1_8b", None, ["ppo.colocate=true"]), gpus=8, **LARGE) is None


def test_nobody_is_refused_for_what_does_not_run() -> None:
    config = load_config("20b", None, ["ppo.colocate=true"])  # 40 workers, 8 GPUs for PPO
    assert too_small(config, gpus=8, stages=["ppo"], **LARGE) is None
    assert "training.workers=40" in str(too_small(config, gpus=8, stages=["pretrain", "ppo"], **LARGE))
    assert too_small(load_config("1_8b"), gpus=8, stages=["text", "pretrain", "sft", "reward"], **LARGE) is None


def test_the_first_round_is_the_stage_ppo() -> None:
    assert too_small(load_config("1_8b", None, ["online.rounds=1"]), gpus=8, stages=["online"], **LARGE) is None
    said = too_small(load_config("1_8b", None, ["online.rounds=2"]), gpus=8, stages=["online"], **LARGE)
    assert said is not None and "ranks of PPO" in said


def test_without_gpus_ppo_asks_for_none() -> None:
    assert too_small(load_config("nano"), cpus=2, gpus=0, memory_gib=2, stages=["pretrain", "ppo", "online"]) is None


@pytest.mark.parametrize(
    ("gpus", "workers", "policy_ranks"),
    [(0, 2, 2), (1, 1, 1), (2, 2, 1), (3, 2, 1), (4, 2, 1), (5, 2, 1), (6, 2, 2), (8, 2, 2)],
)
def test_nano_takes_its_counts_from_the_gpus_that_there_are(gpus: int, workers: int, policy_ranks: int) -> None:
    config = load_config("nano")
    fit = fitted(config, gpus)
    assert too_small(fit, cpus=4, gpus=gpus, memory_gib=16, stages=["pretrain", "sft", "reward", "ppo"]) is None
    assert (fit.training.workers, fit.ppo.policy_ranks) == (workers, policy_ranks)
    assert set(group_sizes(fit.ppo)[1:]) == {1}
    assert (fewer_line(config, fit) is None) == (gpus in (0, 6, 8))
    check_ppo_fits(fit.ppo, gpus)  # which the driver asks again when it places the groups


@pytest.mark.parametrize(("colocate", "scorer_gpus"), [(False, 1), (True, 1), (False, 2), (True, 2)])
def test_fewer_ranks_always_fit_and_are_never_more_than_what_is_set(colocate: bool, scorer_gpus: int) -> None:
    """Every number of GPUs up to what is asked, against the rules for places: a GPU a rank, or learners of one rank."""
    named = "training.layout={parameters: full}"  # which shares batches out evenly
    spans = [f"ppo.colocate={colocate}", f"ppo.scorer_gpus={scorer_gpus}"]
    config = load_config("1_8b", None, ["ray.fewer_ranks=true", *spans, named])
    for gpus in range(1, 40):
        fit = fitted(config, gpus)
        assert too_small(fit, gpus=gpus, **LARGE) is None
        sizes, most = group_sizes(fit.ppo), group_sizes(config.ppo)
        assert all(1 <= size <= limit for size, limit in zip(sizes, most, strict=True))
        places = max(sizes) if colocate else sum(sizes)
        assert places <= gpus or (not colocate and sizes[:2] == (1, 1))
        assert fit.ppo.scorer_gpus == scorer_gpus or gpus < (2 if colocate else 16), "a split model stays split"
        assert 1 <= fit.training.workers <= min(8, gpus)
        assert all(phase.sequences % fit.training.workers == 0 for phase in fit.pretrain.phases)
        assert (fit == config) == (gpus >= max(gpus_needed(config)))


def test_ranks_that_are_no_whole_copies_are_refused() -> None:
    with pytest.raises(UserError, match=r"scorer_gpus=2 ranks hold a copy together, reward_ranks=3 is no multiple"):
        load_config("1_8b", None, ["ppo.scorer_gpus=2", "ppo.reward_ranks=3"])


def test_counts_that_a_preset_insists_on_are_refused_with_a_way_out() -> None:
    config = load_config("nano", None, ["ray.fewer_ranks=false"])
    with pytest.raises(UserError, match=r"training\.workers=2 but the cluster has 1 GPUs; set ray\.fewer_ranks=true"):
        require_fit(config, Machine(cpus=4, gpus=1, memory_gib=16))


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster for jobs to find, without Ray."""
    monkeypatch.setattr(frame, "LocalRay", lambda config: nullcontext())
    monkeypatch.setattr(frame, "machine", lambda: Machine(**LARGE, gpus=8.0))
    monkeypatch.setattr(frame, "check_gpus_work", lambda: None)
    yield


def _refuse(*_: Any) -> None:
    raise UserError("let through")


@pytest.mark.usefixtures("eight_gpus")
@pytest.mark.parametrize(
    ("names", "message"), [(["pretrain"], "let through"), (["pretrain", "ppo"], "the 32 ranks of PPO have 8 GPU(s)")]
)
def test_a_job_is_judged_by_its_stages(
    names: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(frame, "_open_run_dir", _refuse)  # what comes next
    stages = [Stage(name, (), lambda config: {}, _work, trains=True) for name in names]
    with pytest.raises(SystemExit) as ended:
        frame.run_job(
            "pipeline", stages, ["--preset", "1_8b", "--run-dir", str(tmp_path / "run"), "ppo.prompts=x.jsonl"]
        )
    assert ended.value.code == 2
    assert json.loads(capsys.readouterr().out)["error"].startswith(message)


def _work(context: Context) -> Result:
    raise AssertionError("nothing is to run")
