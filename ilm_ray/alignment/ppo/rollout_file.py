"""Rollouts as Parquet, a row each: prompt_id, domain, prompt and response (token ids), row, behaviour, version.

A number a response token: `behaviour`, see `Rollouts`. row: see `Prompt`.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ilm_ray.alignment.ppo.experience import Prompt, Rollouts
from ilm_ray.base.errors import UserError
from ilm_ray.base.files import temporary_path


def columns(rolled: Rollouts) -> dict[str, pa.Array]:
    """Columns of the engines' answers, a row each; log-probabilities are those of the sampling."""
    return {
        "version": pa.array([rolled.version] * len(rolled.prompts), pa.int32()),
        "prompt_id": pa.array([p.id for p in rolled.prompts]),
        "domain": pa.array([p.domain for p in rolled.prompts]),
        "prompt": pa.array([p.ids for p in rolled.prompts], pa.list_(pa.int32())),
        "row": pa.array([p.row for p in rolled.prompts]),
        "response": pa.array(rolled.responses, pa.list_(pa.int32())),
        "behaviour": numbers(rolled.behaviour),
    }


def rollouts_of(rows: dict[str, list[Any]]) -> Rollouts:
    """From columns as Python lists. Raises KeyError, TypeError or ValueError where they are no rollouts."""
    return Rollouts(
        [Prompt(*row) for row in zip(*(rows[n] for n in ("prompt_id", "domain", "prompt", "row")), strict=True)],
        rows["response"],
        tensors(rows["behaviour"]),
        rows["version"][0],
    )


def write_rollouts(path: Path, rolled: Rollouts) -> None:
    """Write one file in one step."""
    write_table(path, pa.table(columns(rolled)))


def read_rollouts(path: Path) -> Rollouts:
    """Raises UserError where the file cannot be read."""
    try:
        table = pq.read_table(path)
        return rollouts_of({name: table[name].to_pylist() for name in table.column_names})
    except (OSError, KeyError, TypeError, ValueError, IndexError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); remove the checkpoint") from None


def write_table(path: Path, table: pa.Table) -> None:
    """A Parquet file (zstd) that appears whole; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def numbers(parts: list[Tensor]) -> pa.Array:
    """fp32 lists from one tensor a row."""
    return pa.array([part.float().numpy() for part in parts], pa.list_(pa.float32()))


def marks(parts: list[Tensor]) -> pa.Array:
    """Lists of bool from one tensor a row."""
    return pa.array([part.numpy() for part in parts], pa.list_(pa.bool_()))


def masks(rows: list[list[bool]]) -> list[Tensor]:
    """Rows from a file, one bool a token."""
    return [torch.tensor(row, dtype=torch.bool) for row in rows]


def tensors(rows: list[list[float]]) -> list[Tensor]:
    """Rows from a file, one number a token, as fp32 tensors."""
    return [torch.tensor(row, dtype=torch.float32) for row in rows]
