"""Predict layouts, memory and time of a run before anything runs. Needs no Ray and no device.

    python jobs/plan.py --preset 7b --devices 1024 --device h100 [--context 4096] [--top 10]     layouts, fastest first
    python jobs/plan.py --preset 7b --devices 64 --device h100 --phases       dry run: layouts and hours of each stage
    python jobs/plan.py --preset nano --devices 2 --device cpu --calibrate calibration.json      measure this machine
    python jobs/plan.py --preset nano --devices 2 --calibration calibration.json --phases        plan with that
    python jobs/plan.py --table > docs/plans.md

Model, phases, batch, precision and layout are the preset's, unless `--config FILE` or settings say otherwise.
`--calibrate` starts a process for each device of this machine. `--table` plans all presets of the report.
Exit codes as for every job: 0 done, 2 bad input (also: nothing fits), 1 anything else.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config
from ilm_ray.config.fit import check_ppo_fits, fitted
from ilm_ray.config.load import with_settings
from ilm_ray.config.named_data import needed, off_line, steps_off
from ilm_ray.config.road import brought, in_effect, stages_on
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.alignment_memory import ppo_changes, ppo_misfit, ppo_rank_memory
from ilm_ray.training.plan.calibration import read_calibration, write_calibration
from ilm_ray.training.plan.cards import DEVICES, UNKNOWN, kind_of, known_device
from ilm_ray.training.plan.decide import decide
from ilm_ray.training.plan.devices import GIB, Device
from ilm_ray.training.plan.forecast import forecast
from ilm_ray.training.plan.planner import written
from ilm_ray.training.plan.rollouts import ppo_seconds
from ilm_ray.training.plan.shape import planned_shape
from ilm_ray.training.plan.trainings import fine_tuning, pretraining, reward_training
from jobs._plans import (
    COLUMNS,
    PHASE_COLUMNS,
    cells,
    checkpoint_line,
    data_tokens,
    distinct,
    figures,
    layout_lines,
    page,
    phase_cells,
    ranking,
    reasons,
    room,
    table,
)
from jobs.frame.command import Parser, run_command, settings_of


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and the JSON line, or the page of all plans; return the exit code."""
    if "--table" in (sys.argv[1:] if argv is None else argv):
        print("\n".join(page()))
        return 0

    def work(summary: dict[str, Any]) -> None:
        arguments = _parser().parse(argv)
        config = settings_of(arguments)
        device = _device(arguments)
        summary |= {"preset": config.preset, "devices": arguments.devices, "device": device.name}
        if arguments.calibrate is not None:
            shape = planned_shape(config)
            write_calibration(arguments.calibrate, shape, config.training.precision, arguments.devices, device)
            summary |= {"calibration": str(arguments.calibrate), "about": read_calibration(arguments.calibrate)[1]}
        elif arguments.phases:
            _dry_run(config, arguments.devices, device, summary)
        else:
            context = arguments.context or config.pretrain.phases[0].context
            _layouts(config, arguments.devices, device, context, arguments.top, summary)
        if arguments.calibrate is None:
            _data(config, summary)

    return run_command("plan", work)


def _device(arguments: argparse.Namespace) -> Device:
    if arguments.calibration is not None:
        device, about = read_calibration(arguments.calibration)
        print(f"Measured on {about['date']}: {about['ranks']} x {about['hardware']}, torch {about['torch']}.")
        return device
    if arguments.device is None:
        raise UserError("say which devices: --device KIND of their data sheet, or --calibration FILE")
    memory = None if arguments.memory_gib is None else int(arguments.memory_gib * GIB)
    device = known_device(arguments.device, memory)
    if kind_of(arguments.device) is None:
        print(
            f"No data sheet of '{arguments.device}' here: taken to be as slow as {UNKNOWN}, with "
            f"{device.memory / GIB:.3g} GiB; known are {', '.join(DEVICES)}. A worker measures its own card."
        )
    return device


def _layouts(config: Config, devices: int, device: Device, context: int, top: int, summary: dict[str, Any]) -> None:
    """The ranked table of one context."""
    layouts = ranking(config, devices, device, context)
    plans = distinct(layouts.plans, top)
    if not plans:
        raise UserError(
            f"no layout of {config.preset} on {devices} {device.name} at context {context}: "
            f"{reasons(layouts)}; use more devices, a shorter context or a larger batch"
        )
    for line in table(("", *COLUMNS), ((str(i), *cells(plan)) for i, plan in enumerate(plans, 1))):
        print(line)
    print(f"Predictions. {len(layouts.plans)} layouts fit; left out: {reasons(layouts) or 'none'}.")
    summary |= {"context": context, "fit": len(layouts.plans), "left_out": dict(layouts.left_out)}
    summary["plans"] = [figures(plan) for plan in plans]


def _dry_run(config: Config, devices: int, device: Device, summary: dict[str, Any]) -> None:
    """Every training as `devices` workers would run it: the job takes the layout that is decided here."""
    with contextlib.suppress(UserError):  # a named layout that has no place on so many goes by the elastic rules
        config = with_settings(config, [f"training.workers={devices}"])
    config, shape = in_effect(config), planned_shape(config)
    for model in brought(config).values():
        print(f"{', '.join(model.roles)}: begins with {model.setting}={model.place}.")
    summary["begins_with"] = {role: model.place for model in brought(config).values() for role in model.roles}
    if "pretrain" in stages_on(config):
        _phases(config, shape, devices, device, summary)
    summary["alignment"] = _alignment(config, shape, devices, device)


def _phases(config: Config, shape: Shape, devices: int, device: Device, summary: dict[str, Any]) -> None:
    training = pretraining(config, shape)
    decision = decide(training, devices, config.training.workers, device)
    rows, phases = forecast(training, decision, devices), config.pretrain.phases
    tokens = sum(row.tokens for row in rows)
    cut = [phase_cells(row, phase, tokens) for row, phase in zip(rows, phases, strict=True)]
    for line in (*table(PHASE_COLUMNS, cut), *layout_lines(rows, device)):
        print(line)
    print(f"Why: {decision.why or 'the settings name this layout'}.")
    hours, device_hours = (sum(getattr(row, name) for row in rows) / 3600 for name in ("seconds", "device_seconds"))
    print(checkpoint_line(config, shape))
    print(
        f"Predictions, without evaluation, checkpoints and restarts: {tokens:,} tokens in {hours:,.4g} hours "
        f"({hours / 24:,.3g} days), {device_hours:,.4g} device-hours."
    )
    summary |= {"layouts": [row.plan.layout.model_dump(exclude_defaults=True) for row in rows]}
    summary |= {"why": decision.why, "tokens": tokens}
    summary |= {"hours": round(hours, 3), "device_hours": round(device_hours, 1)}
    summary["phases"] = [
        {"phase": row.name, "tokens": row.tokens, "steps": row.steps, "hours": round(row.seconds / 3600, 3)}
        | figures(row.plan)
        for row in rows
    ]


def _alignment(config: Config, shape: Shape, devices: int, device: Device) -> dict[str, Any]:
    """SFT, reward model and PPO, those on the road; the first two by the size of their data, where it is there."""
    stages, on = dict[str, Any](), stages_on(config)
    sft, reward = (fine_tuning(config, shape), config.sft), (reward_training(config, shape), config.reward)
    for training, section in (sft, reward):
        if training.stage not in on:
            continue
        decision = decide(training, devices, config.training.workers, device)
        (plan,) = decision.plans
        speed, rows = plan.tokens_per_second * decision.used, decision.micro_tokens[0]
        tokens = data_tokens(section.data)
        took = f"an hour for {3600 * speed / 1e6:,.0f}M tokens"
        if tokens is not None:
            tokens *= section.epochs
            took = f"{tokens / speed / 3600:,.3g} hours for about {tokens / 1e6:,.3g}M tokens"
        print(f"{training.stage}: {written(plan.layout)}; {rows:,} tokens at once, {room(plan, device)}; {took}.")
        stages[training.stage] = figures(plan) | {"micro_tokens": rows, "tokens": tokens}
    if "ppo" not in on:
        return stages
    seconds = ppo_seconds(config, shape, device, devices)
    iterations = config.ppo.iterations + config.ppo.warmup
    print(f"ppo: at least {seconds / 3600:,.3g} hours for {iterations} iterations, roughly.")
    stages["ppo"] = {"hours": round(seconds / 3600, 3)}
    if not device.name.endswith("cpu"):
        stages["ppo"]["memory"] = ppo_memory(config, devices, device)
        print(f"ppo: {stages['ppo']['memory']}.")
    return stages


def ppo_memory(config: Config, gpus: int, device: Device) -> str:
    """Memory of PPO on its fullest GPU; where it finds no place, the reason and the smallest change that is enough."""
    fit = fitted(config, gpus)
    try:
        check_ppo_fits(fit.ppo, gpus)
    except UserError as error:
        return str(error)
    if (reason := ppo_misfit(fit, device.memory, gpus)) is None:
        peak = ppo_rank_memory(fit, device.memory, gpus).peak
        return f"{peak / GIB:.1f} of {device.usable_memory / GIB:.1f} GiB on its fullest GPU"
    change = next(ppo_changes(config, device.memory, gpus), None)
    return f"{reason}; set {' '.join(change)}" if change else reason


def _data(config: Config, summary: dict[str, Any]) -> None:
    """Data that a run would need and that is not named, and the steps that are off for want of it."""
    missing = needed(config, stages_on(config))
    off = {setting: why for setting, why in steps_off(config).items() if setting not in missing}
    if missing:
        print(f"Data that a run needs and that is not named yet: {', '.join(missing)}.")
    if off:
        print(f"Steps that are {off_line(off)}.")
    summary |= {"not_named": list(missing), "off": off}


def _parser() -> Parser:
    about = "What a run would need: layouts, memory, time (predictions)."
    parser = Parser(prog="jobs/plan.py", description=about, reads=("tokenizer", "model", "training", "pretrain"))
    parser.add_argument("--devices", type=_positive, required=True, help="how many")
    parser.add_argument("--device", metavar="KIND", help=f"of which kind: {', '.join(DEVICES)}, or a name of CUDA's")
    parser.add_argument(
        "--memory-gib", type=float, metavar="N", help="memory of each, where it is not the data sheet's"
    )
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="measured figures instead")
    parser.add_argument("--calibrate", type=Path, metavar="FILE", help="measure this machine and write FILE")
    parser.add_argument("--phases", action="store_true", help="dry run: layout, memory, hours of each stage")
    parser.add_argument("--context", type=_positive, help="tokens of a sequence (default: the first phase's)")
    parser.add_argument("--top", type=_positive, default=10, help="plans to show (default 10)")
    parser.add_argument("--table", action="store_true", help="print docs/plans.md instead, which takes minutes")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
