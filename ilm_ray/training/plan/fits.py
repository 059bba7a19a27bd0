"""Checks that a run fits the machines at hand, before anything starts; a refusal names a command that is accepted."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config, load_config
from ilm_ray.config.fit import WHOLE_ROAD, fitted, longest_sequence, runs_ppo, too_small
from ilm_ray.config.load import PRESETS, with_settings
from ilm_ray.run.gpus import Gpu
from ilm_ray.training.plan.alignment_memory import ppo_changes, ppo_misfit
from ilm_ray.training.plan.cards import known_device
from ilm_ray.training.plan.decide import named_layout, too_large
from ilm_ray.training.plan.devices import BF16_CAPABILITY, GIB, Device
from ilm_ray.training.plan.elastic import has_room
from ilm_ray.training.plan.shape import parameters_of, planned_shape
from ilm_ray.training.plan.trainings import Training, trainings

MICRO_TOKENS = (16_384, 8192, 4096)  # smaller micro-batches that are tried


@dataclass(frozen=True)
class Machine:
    """Resources of a cluster, over all nodes, and the weakest of its GPUs; None: there is none, or it is not known."""

    cpus: float
    gpus: float
    memory_gib: float
    gpu: Gpu | None = None


def require_fit(config: Config, machine: Machine, stages: Collection[str] = WHOLE_ROAD) -> Config:
    """The configuration to run `stages` with: `config`, with fewer ranks where it allows that (see `fitted`).

    Raises UserError where they do not fit, in one line that names the smallest change with which they do: settings
    first, then a smaller preset. Every change is tried before it is named.
    """
    reason = misfit(config, machine, stages)
    if reason is None:
        return fitted(config, machine.gpus)
    for words in _changes(config, machine):
        if _accepted(config, words, machine, stages):
            raise UserError(f"{reason}; set {' '.join(words)}")
    fewer = misfit(with_settings(config, ["ray.fewer_ranks=true"]), machine, stages)
    reason += f", and with fewer: {fewer}" if fewer not in (None, reason) else ""
    if config.base is not None or config.start is not None:  # no preset is smaller than a model that one has
        raise UserError(f"{reason}; submit it to a larger cluster, or begin with a smaller model")
    size = parameters_of(planned_shape(config))
    for preset in reversed(PRESETS if machine.gpus else PRESETS[:1]):  # nano alone is made for CPUs
        smaller = load_config(preset)
        if parameters_of(planned_shape(smaller)) < size and not misfit(smaller, machine, stages):
            raise UserError(f"{reason}; use --preset {preset}, or submit it to a larger cluster")
    raise UserError(f"{reason}; submit it to a larger cluster")


def misfit(config: Config, machine: Machine, stages: Collection[str]) -> str | None:
    """The reason why `stages` cannot run on a machine as configured, or None."""
    config = fitted(config, machine.gpus)
    shape = planned_shape(config)
    reason = too_small(config, machine.cpus, machine.gpus, machine.memory_gib, stages, parameters_of(shape))
    if reason is not None or machine.gpu is None or machine.gpus == 0:
        return reason
    precisions = (config.training.precision, config.ppo.precision, config.ppo.sampled_in)
    if machine.gpu.capability < BF16_CAPABILITY and "bf16" in precisions:
        return f"precision bf16 on {machine.gpu.name}, which does not compute in bfloat16"
    device = known_device(machine.gpu.name, machine.gpu.memory)
    for training in trainings(config, shape, stages):
        if (reason := _no_room(training, config.training.workers, device)) is not None:
            return reason
    return ppo_misfit(config, machine.gpu.memory, int(machine.gpus)) if runs_ppo(config, stages) else None


def _no_room(training: Training, workers: int, device: Device) -> str | None:
    if training.layout != "auto":
        try:
            return too_large(training, named_layout(training, training.layout, workers)[0], device)
        except UserError as error:
            return str(error).partition(";")[0]
    if has_room(training.shape, workers, device, training.works):
        return None
    return (
        f"{training.stage}: no layout on {workers} x {device.name} fits into the {device.usable_memory / GIB:.1f} GiB "
        "that each has for tensors"
    )


def _accepted(config: Config, words: tuple[str, ...], machine: Machine, stages: Collection[str]) -> bool:
    try:
        changed = with_settings(config, words)
    except UserError:
        return False
    return misfit(changed, machine, stages) is None


def _changes(config: Config, machine: Machine) -> Iterator[tuple[str, ...]]:
    """Settings that may make room, from the smallest change to the largest."""
    training, gpus = config.training, int(machine.gpus)
    if (longest := longest_sequence(config.ppo)) > training.micro_tokens:
        yield (f"training.micro_tokens={longest}",)
    if machine.gpu is not None and machine.gpu.capability < BF16_CAPABILITY:
        engines = ("ppo.engine_precision=null",) if config.ppo.engine_precision else ()
        yield ("training.precision=fp32", "ppo.precision=fp32", *engines)
    again = list[tuple[str, ...]]()
    if training.layout != "auto":
        again = [("training.layout=auto",)]
        if training.layout.recompute != "full":
            again.append(("training.layout.recompute=full",))
    yield from again
    fewer = [(f"training.micro_tokens={tokens}",) for tokens in MICRO_TOKENS if tokens < training.micro_tokens]
    yield from fewer
    yield from (first + second for first in again[1:] for second in fewer)
    most = gpus if machine.gpus else int(machine.cpus)
    counts = [(f"training.workers={number}",) for number in range(most, 0, -1) if number != training.workers]
    yield from counts
    if not gpus:
        return
    places = (("ray.fewer_ranks=true",), ("ppo.colocate=true",), ("ray.fewer_ranks=true", "ppo.colocate=true"))
    yield from places
    yield from (change for words in ((), *places) for change in _ppo_changes(config, words, machine))
    yield from ((*first, "ray.fewer_ranks=true") for first in again[:1])
    yield from ((*workers, "ppo.colocate=true") for workers in counts)


def _ppo_changes(config: Config, words: tuple[str, ...], machine: Machine) -> Iterator[tuple[str, ...]]:
    """`words`, and the smallest change beside them with which PPO fits into the memory."""
    if machine.gpu is None:
        return
    try:
        changed = with_settings(config, words)
    except UserError:
        return
    yield from ((*words, *more) for more in islice(ppo_changes(changed, machine.gpu.memory, int(machine.gpus)), 1))
