"""calibration.json: a measured `Device`, with when and where it was measured."""

import datetime
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.devices import Device

ROWS = (256, 1024, 4096)  # tokens of a micro-batch on a GPU; a CPU gets a quarter of them
DEADLINE_S = 600.0


def write_calibration(path: Path, shape: Shape, precision: str, ranks: int, sheet: Device) -> None:
    """Measure with `ranks` processes of this machine, a GPU each if it has that many, and write `path`.

    sheet: the kind of device, for what is not measured: its peak, its links to other nodes. Raises UserError where
    there are fewer GPUs than ranks, TimeoutError after ten minutes.
    """
    import torch

    from ilm_ray.training.parallel.local import run_ranks

    gpus = torch.cuda.device_count()
    if 0 < gpus < ranks:
        raise UserError(f"calibration: {ranks} ranks on {gpus} GPUs; every rank needs its own, so ask for {gpus}")
    run_ranks(_measure, ranks, str(path), shape, precision, sheet, deadline_s=DEADLINE_S)


def _measure(path: str, shape: Shape, precision: str, sheet: Device) -> None:
    import torch
    import torch.distributed as dist

    from ilm_ray.training.plan.calibrate import calibrate

    on_gpu, ranks = torch.cuda.is_available(), dist.get_world_size()
    cores = ranks if on_gpu else len(os.sched_getaffinity(0))
    rows = ROWS if on_gpu else tuple(n // 4 for n in ROWS)
    device = calibrate(shape, precision, rows, cores, sheet)
    if dist.get_rank() == 0:
        about = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "torch": torch.__version__,
            "hardware": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
            "backend": dist.get_backend(),
            "ranks": ranks,
            "cores": cores,
            "precision": precision,
            "hidden": shape.hidden,
        }
        write_text_atomic(Path(path), json.dumps({"about": about, "device": asdict(device)}, indent=2) + "\n")


def read_calibration(path: Path) -> tuple[Device, dict[str, Any]]:
    """(device, when and where it was measured). Raises UserError where the file holds none."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(Device).validate_python(loaded["device"]), dict(loaded["about"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        message = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path} is no calibration ({type(error).__name__}: {message}); write one with jobs/plan.py --calibrate"
        ) from None
