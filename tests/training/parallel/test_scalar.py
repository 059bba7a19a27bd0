"""The reward model's scalar head over tensor and context ranks: scores and gradients of one process."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ilm_ray.config.layout import Layout
from ilm_ray.model.internlm2 import Packed, ScalarModel, initialize
from ilm_ray.training.parallel.parallelize import parallelize
from tests.processes import run_ranks
from tests.training.parallel.training import SHAPE

LAYOUT = Layout(tp=2, sequence_parallel=True, cp=2)


def _model() -> ScalarModel:
    model = ScalarModel(SHAPE)
    initialize(model, seed=4)
    return model.double()


def _loss(scores: Tensor) -> Tensor:
    """Reads two tokens, as a pair of answers does, which lie on different ranks."""
    return scores[5].sigmoid() * scores[16]


def _run(folder: str) -> None:
    model = parallelize(_model(), LAYOUT, torch.device("cpu"), "fp32")
    batch = Packed.of([list(range(6)), list(range(11))])
    scores: list[Tensor] = []

    def loss_of(packed: Packed) -> Tensor:
        scores.append(model(packed))
        return _loss(scores[-1])

    model.backward([batch], loss_of, 3.0)
    gradients = {name: p.grad.full_tensor() for name, p in model.parts[0].named_parameters()}
    torch.save((scores[0].detach(), gradients), Path(folder) / f"{dist.get_rank()}.pt")


@pytest.mark.ranks
def test_scores_and_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    run_ranks(_run, 4, str(tmp_path))
    alone = _model()
    expected = alone(Packed.of([list(range(6)), list(range(11))]))
    (3.0 * _loss(expected)).backward()
    for rank in range(4):
        scores, gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(scores, expected.detach(), atol=1e-6, rtol=0)  # scores are fp32
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, alone.get_parameter(name).grad, atol=1e-6, rtol=1e-5)


@pytest.mark.ranks
def test_a_pipeline_of_a_scalar_model_is_refused(tmp_path: Path) -> None:
    def refused() -> None:
        with pytest.raises(NotImplementedError, match="only a language model has a pipeline"):
            parallelize(_model(), Layout(pp=2, gradients="replica"), torch.device("cpu"), "fp32")

    run_ranks(refused, 2)
