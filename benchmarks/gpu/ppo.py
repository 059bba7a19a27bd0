"""PPO's arithmetic on the device against the same on the CPU in fp64: functions alone, then through a model."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.gpu.cases import Case, Figures, Where, rounded
from benchmarks.gpu.kernels import usable
from benchmarks.gpu.rank import attend_with
from ilm_ray.alignment.ppo.arithmetic import gae, kl_estimate, normalized, policy_loss, token_rewards, value_loss
from ilm_ray.alignment.ppo.experience import per_response, response_labels
from ilm_ray.model.attention import attention
from ilm_ray.model.internlm2 import CausalLM, initialize
from ilm_ray.model.shape import Shape

SHAPE = Shape(32_000, 8, 1024, 4, 2, 128, 2816)
TINY = Shape(64, 2, 32, 2, 2, 8, 48)
FUNCTION_BOUND = 1e-5  # largest relative difference of fp32 from fp64: some hundred additions after each other
# A model's log-probabilities (nats) and gradients (relative norm). In bf16 a matrix product is rounded to 8 bits.
MODEL_BOUNDS = {"fp32": (1e-4, 1e-3), "bf16": (0.1, 0.1)}
SEQUENCES, PROMPT = 8, 24


def cases(where: Where) -> list[Case]:
    through = [Case(f"log-probabilities and loss, {p}", functools.partial(model, p, where)) for p in MODEL_BOUNDS]
    return [Case("functions", functools.partial(functions, where)), *through]


def functions(where: Where) -> Figures:
    """Largest difference of each function's results, relative to the largest exact one."""
    on_device = _results(torch.device(where.device), torch.float32)
    exact = _results(torch.device("cpu"), torch.float64)
    errors = {name: rounded(_error(on_device[name], value)) for name, value in exact.items()}
    return {**errors, "bound": FUNCTION_BOUND, "holds": max(errors.values()) <= FUNCTION_BOUND}


def _results(device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Rewards, advantages and losses of the same random rollouts, some tokens masked, some ratios clipped."""
    generator = torch.Generator().manual_seed(0)

    def drawn(scale: float = 1.0) -> Tensor:
        # Rounded to fp32 for all: the inputs are the same numbers in both precisions.
        return (scale * torch.randn(8, 300, generator=generator)).to(device, dtype)

    old, new, reference, values, old_values = drawn() - 2, drawn(), drawn() - 2, drawn(), drawn()
    new = old + 0.3 * new
    mask = (torch.rand(8, 300, generator=generator) < 0.9).to(device)
    kl = kl_estimate(old, reference, "k3")
    rewards = torch.stack([token_rewards(k, m, 1.5, 0.05) for k, m in zip(kl, mask, strict=True)])
    advantages, returns = gae(rewards, values, mask, 0.99, 0.95)
    flat_mask = mask.flatten()
    losses, _ = policy_loss(new.flatten()[flat_mask] - old.flatten()[flat_mask], advantages.flatten()[flat_mask], 0.2)
    return {
        "kl": kl,
        "rewards": rewards,
        "advantages": advantages,
        "returns": returns,
        "normalized": torch.stack(normalized(list(advantages), list(mask))),
        "policy_loss": losses,
        "value_loss": value_loss(values, returns, old_values, 0.2),
    }


def model(precision: str, where: Where) -> Figures:
    """Log-probabilities of answers, PPO's loss and its gradient by a model on the device, against fp64 on the CPU."""
    shape = TINY if where.tiny else SHAPE
    exact = CausalLM(shape, loss_chunk=64)
    initialize(exact, 0)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    ours = CausalLM(shape, loss_chunk=64)
    ours.load_state_dict(exact.state_dict())
    ours.to(where.device, dtype)
    attend_with(ours, usable(where.device))
    attend_with(exact.double(), attention)
    logprobs, loss, gradients = _through(ours, where.device)
    exact_logprobs, exact_loss, exact_gradients = _through(exact, "cpu")
    difference = float((logprobs - exact_logprobs).abs().max())
    square = sum(float((a - b).square().sum()) for a, b in zip(gradients, exact_gradients, strict=True))
    gradient = (square / sum(float(b.square().sum()) for b in exact_gradients)) ** 0.5
    bound, gradient_bound = MODEL_BOUNDS[precision]
    return {
        "logprob_difference": rounded(difference),
        "loss_difference": rounded(abs(loss - exact_loss)),
        "gradient_error": rounded(gradient),
        "bounds": [bound, gradient_bound],
        "holds": difference <= bound and gradient <= gradient_bound,
    }


def _through(policy: CausalLM, device: str) -> tuple[Tensor, float, list[Tensor]]:
    """Log-probabilities of all answers' tokens, the mean clipped loss, the gradients of all weights, in fp64."""
    generator = torch.Generator().manual_seed(1)
    words = policy.shape.vocab_size
    lengths = torch.randint(PROMPT + 1, 5 * PROMPT, (SEQUENCES,), generator=generator).tolist()
    sequences = [torch.randint(0, words, (n,), generator=generator).tolist() for n in lengths]
    batch, labels = response_labels(sequences, [PROMPT] * SEQUENCES)
    count = sum(lengths) - PROMPT * SEQUENCES
    # Old log-probabilities near those of an untrained model, so that ratios lie on both sides of the clip.
    old = -torch.log(torch.tensor(float(words))) + 0.3 * torch.randn(count, generator=generator)
    advantages = torch.randn(count, generator=generator)
    losses = policy(batch.to(torch.device(device)), labels.to(device))
    new = -torch.cat(per_response(losses, sequences, [PROMPT] * SEQUENCES))
    each, _ = policy_loss(new - old.to(new), advantages.to(new), 0.2)
    each.mean().backward()
    return new.detach().cpu().double(), float(each.mean().detach()), _gradients(list(policy.parameters()))


def _gradients(parameters: Sequence[torch.nn.Parameter]) -> list[Tensor]:
    return [parameter.grad.cpu().double() for parameter in parameters if parameter.grad is not None]


def _error(got: Tensor, exact: Tensor) -> float:
    return float((got.cpu().double() - exact).abs().max() / exact.abs().max())
