"""Bad steps: what counts as one, that its batch alone is left out, and that older weights come back after several."""

import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.config.training import SpikeConfig
from ilm_ray.training.checkpoints import commit
from ilm_ray.training.faults.guard import Guard, nth_kept
from ilm_ray.training.faults.watch import Watch
from ilm_ray.training.loop import Diverged, train
from tests.processes import run_ranks
from tests.training.test_loop import SETTINGS, Toy, differences

# The toy's few batches differ by much: what is planted in them differs by more.
RARE = SpikeConfig(sigmas=100.0, window=4, patience=3, rollbacks=2)
RULE = SpikeConfig(sigmas=6.0, window=16, patience=2, rollbacks=2)


@given(st.sets(st.integers(0, 40), max_size=20), st.integers(0, 40))
def test_batches_are_counted_around_those_left_out(skipped: set[int], number: int) -> None:
    kept = [batch for batch in range(100) if batch not in skipped]
    assert nth_kept(number, sorted(skipped)) == kept[number]


def test_a_spike_is_told_from_noise_and_from_a_falling_loss() -> None:
    generator, guard = np.random.default_rng(0), Guard(RULE)
    for step in range(400):
        loss = 3.0 + 7.0 * math.exp(-step / 50) + float(generator.normal(0, 0.05))
        assert guard.look(loss, float(generator.lognormal(0, 0.3))) is None
    bad_step = guard.look(4.5, 1.0)
    assert bad_step is not None and bad_step.kind == "spike" and "loss 4.5" in bad_step.why and not bad_step.roll_back
    bad_step = guard.look(3.0, 40.0)
    assert bad_step is not None and "gradient norm 40" in bad_step.why and bad_step.roll_back
    assert guard.look(3.0, 1.0) is None
    bad_step = guard.look(4.5, 1.0)
    assert bad_step is not None and not bad_step.roll_back, "a good step in between: counted anew"


@pytest.mark.long
def test_a_long_tail_of_norms_is_usual_and_a_jump_out_of_it_is_not() -> None:
    """20,000 norms as a small model has them (log-normal, deviation 0.5): by their plain deviation, tens would fall."""
    generator, rule = np.random.default_rng(5), SpikeConfig(sigmas=6.0, window=128, patience=2, rollbacks=2)
    norms, guard = generator.lognormal(0, 0.5, 20_000), Guard(rule)
    assert sum(guard.look(3.0 + 0.01 * generator.normal(), float(norm)) is not None for norm in norms) <= 1
    plain = [norms[i] > norms[i - 128 : i].mean() + 6 * norms[i - 128 : i].std(ddof=1) for i in range(128, len(norms))]
    assert sum(plain) >= 10
    for norm in (40.0, 1e30):
        assert guard.look(3.0, norm) is not None


def test_norms_of_zero_and_of_any_size_have_a_limit() -> None:
    guard = Guard(RULE)
    for norm in (0.0, 1e300) * 10:
        guard.look(3.0, norm)
    assert guard.look(3.0, 1e303) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_applied_not_even_at_once(bad: float) -> None:
    for loss, norm in ((bad, 1.0), (1.0, bad)):
        bad_step = Guard(RULE).look(loss, norm)
        assert bad_step is not None and bad_step.kind == "non_finite"


def test_a_guard_from_a_checkpoint_decides_as_the_one_that_wrote_it() -> None:
    generator = np.random.default_rng(1)
    first = Guard(RULE)
    for _ in range(20):
        first.look(*generator.normal(5, 0.1, 2).tolist())
    second = Guard(RULE, json.loads(json.dumps(first.state())))
    for loss in (5.5, 5.61, 5.7, 6.0):
        a, b = first.look(loss, 5.0), second.look(loss, 5.0)
        assert (a is None) == (b is None) and (a is None or b is None or a.why == b.why)


class Skipping(Toy):
    """Reads the batch after those left out; batches in `poison` have a loss that is no number, or a hundredfold one."""

    steps = 14

    def __init__(self, poison: dict[int, float], checkpoints: Path, die_at: int | None = None) -> None:
        super().__init__()
        self.poison, self.skipped, self.read, self.die = poison, list[Any](), list[int](), die_at
        self.checkpoints = checkpoints

    def skip(self, first: int, last: int) -> None:
        self.skipped = sorted({*self.skipped, *(nth_kept(step, self.skipped) for step in range(first, last + 1))})

    def micro_batches(self, step: int, rank: int, ranks: int) -> list[Any]:
        self.batch = nth_kept(step, self.skipped)
        self.read.append(self.batch)
        if self.die == len(self.read):  # but not before the last checkpoint, written beside training, is there
            until = time.monotonic() + 60
            while commit.newest_step(self.checkpoints) < step - step % self.checkpoint_every:
                assert time.monotonic() < until
                time.sleep(0.01)
            os._exit(9)
        return super().micro_batches(self.batch, rank, ranks)

    def losses(self, model: Any, micro: Any) -> Any:
        losses = super().losses(model, micro)
        return replace(losses, loss=losses.loss * self.poison.get(self.batch, 1.0))


def _run(
    folder: str, poison: dict[int, float], left_out: list[int], spike: bool = True, die: int | None = None
) -> None:
    path, rank = Path(folder), int(os.environ["RANK"])
    path.mkdir(exist_ok=True)
    task, rows = Skipping(poison, path / "checkpoints", die), list[dict[str, Any]]()
    task.skipped = left_out
    settings = replace(SETTINGS, spike=RARE if spike else None)
    try:
        train(task, settings, path, rows.append, Watch(path / "watch", rank, 60.0))
        error = ""
    except Diverged as diverged:
        error = str(diverged)
    out = {"rows": rows, "read": task.read, "skipped": task.skipped, "error": error}
    (path / f"out-{rank}.json").write_text(json.dumps(out))


def _out(folder: Path, rank: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"out-{rank}.json").read_text())


@pytest.mark.ranks
@pytest.mark.parametrize("factor", [math.nan, 1e4])
def test_one_bad_batch_leaves_no_mark_on_the_weights(tmp_path: Path, factor: float) -> None:
    run_ranks(_run, 2, str(tmp_path / "bad"), {7: factor}, [])
    run_ranks(_run, 1, str(tmp_path / "good"), {}, [7], False)
    result = _out(tmp_path / "bad")
    assert result["skipped"] == [7] and result["read"] == list(range(15))
    assert _out(tmp_path / "bad", 1)["read"] == result["read"]
    (incident,) = [row for row in result["rows"] if "incident" in row]
    assert incident["step"] == 7 and incident["incident"] == ("spike" if factor > 1 else "non_finite")
    assert differences(tmp_path / "bad", tmp_path / "good") < 1e-9


@pytest.mark.ranks
def test_several_bad_batches_in_a_row_bring_back_older_weights_without_the_data_since(tmp_path: Path) -> None:
    run_ranks(_run, 2, str(tmp_path / "bad"), {7: math.nan, 8: math.nan, 9: math.nan}, [])
    result = _out(tmp_path / "bad")
    # The checkpoint of step 6 comes back; batches 6 to 9 are not read again.
    assert result["read"] == [*range(10), *range(10, 18)] and result["skipped"] == [6, 7, 8, 9]
    assert [row["step"] for row in result["rows"] if "back_to" in row] == [7]
    run_ranks(_run, 1, str(tmp_path / "good"), {}, [6, 7, 8, 9], False)
    assert differences(tmp_path / "bad", tmp_path / "good") < 1e-9


@pytest.mark.ranks
def test_a_run_killed_after_it_left_data_out_goes_on_without_it(tmp_path: Path) -> None:
    poison = {5: math.nan}
    with pytest.raises(AssertionError, match="failed"):
        run_ranks(_run, 2, str(tmp_path / "bad"), poison, [], True, 11)
    run_ranks(_run, 2, str(tmp_path / "bad"), poison, [])
    result = _out(tmp_path / "bad")
    assert result["skipped"] == [5] and result["read"][0] == 9, "step 8 reads batch 9: the checkpoint knows of batch 5"
    run_ranks(_run, 1, str(tmp_path / "good"), {}, [5], False)
    assert differences(tmp_path / "bad", tmp_path / "good") < 1e-9


@pytest.mark.ranks
def test_what_older_weights_do_not_help_ends_the_run(tmp_path: Path) -> None:
    run_ranks(_run, 1, str(tmp_path), dict.fromkeys(range(5, 60), math.nan), [])
    result = _out(tmp_path)
    assert "2 times older weights did not help" in result["error"] and "loss is nan" in result["error"]
    run_ranks(_run, 1, str(tmp_path / "early"), dict.fromkeys(range(60), math.nan), [])
    assert "no checkpoint yet" in _out(tmp_path / "early")["error"]
