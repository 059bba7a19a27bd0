"""Reward functions by name: a rule of this folder, or `module:function` of anybody's."""

import importlib
import math
import re
import sys
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.evaluation.verifiers.mathematics import mathematics
from ilm_ray.evaluation.verifiers.rules import code, form, judge, length

# (prompt: messages, answer: text, metadata: of the prompt's row, **options) -> a number, or parts by name
RewardFunction = Callable[..., Any]
RULES: dict[str, RewardFunction] = {f.__name__: f for f in (mathematics, code, form, length, judge)}
MOST_PARTS = 32
_NAME = r"[\w. -]{0,64}"  # names are keys of logs and pages


def reward_function(by: str) -> RewardFunction:
    """The function of a name. Raises UserError where there is none."""
    if ":" not in by:
        return RULES[by]
    module, _, name = by.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # the module's own code may raise anything
        raise UserError(f"ppo.rewards: {by} cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise UserError(f"ppo.rewards: {module} has no function '{name}'; name one that it has")
    function: RewardFunction = found
    return function


def source_of(by: str, folder: Path) -> Path | None:
    """The file of a function that is none of ours, in `folder` or on Python's path; nothing is imported.

    Raises UserError where its module is not found.
    """
    if ":" not in by:
        return None
    module = by.partition(":")[0]
    places = [Path(place, *module.split(".")) for place in (str(folder), *sys.path)]
    files = (file for place in places for file in (place / "__init__.py", place.with_name(f"{place.name}.py")))
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise UserError(f"ppo.rewards: no module '{module}' in {folder} or on PYTHONPATH; put it there")
    return found


def parts_of(value: Any) -> dict[str, float]:
    """A function's result as parts by name; one number has the name "". Raises ValueError or TypeError for others."""
    parts = value if isinstance(value, dict) else {"": value}
    if not parts or len(parts) > MOST_PARTS:
        raise ValueError(f"{len(parts)} parts; 1 to {MOST_PARTS} may come back")
    numbers = {}
    for name, number in parts.items():
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
            raise ValueError(f"a part is called {str(name)[:40]!r}; letters, digits, _ . - and spaces, at most 64")
        if not isinstance(number, Real):
            raise TypeError(f"{type(number).__name__} came back, neither a number nor a dict of numbers by name")
        if not math.isfinite(number):
            raise ValueError(f"{float(number)} came back")
        numbers[name] = float(number)
    return numbers
