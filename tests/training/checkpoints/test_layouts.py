"""A checkpoint of one layout is loaded by another: the same weights and moments to the bit, and the same next step."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import CausalLM
from ilm_ray.training.checkpoints import commit, states
from ilm_ray.training.checkpoints.checkpoints import Checkpoints, Storage
from ilm_ray.training.parallel.parallelize import ParallelModel, parallelize
from tests.processes import run_ranks
from tests.training.parallel.training import FAMILY, build, make_optimizer, train_step

LAYOUTS = {
    "pp2 tp2 sp": Layout(pp=2, tp=2, sequence_parallel=True, gradients="replica"),
    "dp4": Layout(),
    "dp2 pp2 interleaved x2": Layout(pp=2, schedule="interleaved", virtual_stages=2, gradients="replica"),
    "cp2 dp2 partial": Layout(cp=2, parameters="partial", gradients="partial", optimizer="partial", shard_group=2),
}


def _whole(model: ParallelModel, optimizers: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """Weights and moments of this rank's layers in full, by name."""
    out = {}
    for part, optimizer in zip(model.parts, optimizers, strict=True):
        for name, parameter in part.named_parameters():
            out[name] = parameter.full_tensor()
            for kind in ("exp_avg", "exp_avg_sq"):
                out[f"{name} {kind}"] = optimizer.state[parameter][kind].full_tensor()
            out[f"{name} step"] = optimizer.state[parameter]["step"]
    return out


def _run(folder: str, order: list[str]) -> None:
    """Two steps in the first layout, saved; then each of the others loads that and makes the third step."""
    path, losses = Path(folder), {}
    for name in order:
        model = parallelize(build(torch.float64, FAMILY), LAYOUTS[name], torch.device("cpu"), "fp32")
        optimizers = [make_optimizer(part.parameters(), torch.float64) for part in model.parts]
        parts = list(zip(model.parts, optimizers, strict=True))
        checkpoints = Checkpoints(path, Storage(keep_local=1))
        if name == order[0]:
            for step in range(2):
                train_step(model, optimizers, step)
            checkpoints.save(2, parts, {"tokens": 7}, last=True)
        else:
            restored = checkpoints.restore(parts)
            assert (restored.step, restored.state, restored.notes) == (2, {"tokens": 7}, ())
        checkpoints.finish()
        state = _whole(model, optimizers)
        if all(model.meshes.rank(dim) == 0 for dim in ("dp", "cp", "tp")):
            torch.save(state, path / f"{name}-{model.meshes.rank('pp')}.pt")
        losses[name] = train_step(model, optimizers, 2)
    if dist.get_rank() == 0:
        torch.save(losses, path / "losses.pt")


@pytest.mark.ranks
@pytest.mark.parametrize("first", ["pp2 tp2 sp", pytest.param("cp2 dp2 partial", marks=pytest.mark.slow)])
def test_any_layout_loads_what_another_has_saved(first: str, tmp_path: Path) -> None:
    run_ranks(_run, 4, str(tmp_path), [first, *(name for name in LAYOUTS if name != first)])
    by_layout = {
        name: {k: v for file in tmp_path.glob(f"{name}-?.pt") for k, v in torch.load(file, weights_only=True).items()}
        for name in LAYOUTS
    }
    saved = by_layout[first]
    assert len(saved) == 4 * len(list(build(torch.float64, FAMILY).parameters()))
    for name, state in by_layout.items():
        assert state.keys() == saved.keys(), name
        assert all(torch.equal(state[k], saved[k]) for k in saved), name
    losses = torch.load(tmp_path / "losses.pt", weights_only=True)
    for name, (loss, norm) in losses.items():
        assert loss == pytest.approx(losses[first][0], abs=1e-12), name
        assert norm == pytest.approx(losses[first][1], abs=1e-12), name
    alone = CausalLM(FAMILY).double()
    states.load_whole(commit.committed(tmp_path)[-1], alone)
    assert all(torch.equal(value, saved[name]) for name, value in alone.state_dict().items())
