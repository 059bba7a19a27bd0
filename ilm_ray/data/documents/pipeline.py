"""One Ray Data task an item, for stages whose work on a file is a function of ours."""

import functools
import json
from collections.abc import Iterator
from typing import Any

import ray

from ilm_ray.base.errors import UserError


def run_tasks(items: list[dict[str, Any]], work: functools.partial[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """`work` on every item as Ray Data tasks. Results travel as JSON: their shapes differ from file to file."""
    if not items:
        return

    def run(item: dict[str, Any]) -> dict[str, str]:
        return _as_json(item, work)

    run.__name__ = _shown_name(work)
    for row in ray.data.from_items(items, override_num_blocks=len(items)).map(run).iter_rows():
        result = json.loads(row["json"])
        if "refused" in result:
            raise UserError(result["refused"])
        yield result


def _shown_name(work: functools.partial[dict[str, Any]]) -> str:
    """The name of `work` in Ray's dashboard, which may be of another package: `Map(decontamination_look_through)`."""
    package = (
        work.func.__module__.removeprefix("ilm_ray.").removeprefix("data.").removesuffix(".pipeline").replace(".", "_")
    )
    return f"{package}_{work.func.__name__.lstrip('_')}"


def _as_json(item: dict[str, Any], work: functools.partial[dict[str, Any]]) -> dict[str, str]:
    try:
        result = work(item)
    except UserError as error:  # Ray Data would wrap it in errors of its own
        result = {"refused": str(error)}
    return {"json": json.dumps(result)}
