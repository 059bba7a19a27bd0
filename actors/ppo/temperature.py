"""Log-probabilities at the temperature that answers are drawn with: those of the distribution that PPO optimises.

A model whose logits are divided by the temperature, drawn from at temperature 1, gives both. Greedy answers have no
temperature; their log-probabilities are those at 1.
"""

from typing import Any

from torch import nn

from ilm_ray.model.generate import GREEDY_BELOW
from ilm_ray.model.internlm2 import CausalLM


def is_greedy(temperature: float) -> bool:
    """Whether answers are the likeliest tokens."""
    return temperature < GREEDY_BELOW


class Temperature:
    """Divides a model's logits by a temperature: those of the first `rows` tokens of a batch, None: of all."""

    def __init__(self, model: CausalLM, temperature: float) -> None:
        self.temperature = 1.0 if is_greedy(temperature) else temperature
        self.rows: int | None = None
        if self.temperature != 1.0:
            # The head is linear: what is divided before it is divided behind it.
            model.output.register_forward_pre_hook(self._divide)

    def _divide(self, _head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = inputs
        if self.rows is None:
            return hidden / self.temperature, *others
        divisor = hidden.new_ones(len(hidden), 1)
        divisor[: self.rows] = self.temperature
        return hidden / divisor, *others
