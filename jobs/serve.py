"""Serve a model: OpenAI-compatible endpoint, chat page at /, health, Prometheus metrics; vLLM under a Ray actor.

    python jobs/serve.py model=RUN/STAGE [host=127.0.0.1] [port=8000] [name=...] [context=4096] [dtype=fp32|bf16]
                         [cache_gib=1] [gpus=0|1] [deadline_s=900] [backend=auto|vllm|torch]

`model` is a stage of a run (runs/demo/ppo) or an exported folder. Routes: /v1/chat/completions, /v1/completions (with
echo, logprobs and max_tokens=0 it scores a text), /v1/models, /health, /metrics. Only this machine can reach it unless
`host` says otherwise; it asks for no key, so another host should be a network that you trust. Runs until SIGINT or
SIGTERM, lets running answers end, and prints one JSON line. Exit codes: 0 stopped, 2 bad input, 1 anything else.
"""

import difflib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ilm_ray.base.errors import UserError
from ilm_ray.serving.folder import servable
from jobs._job import join_cluster, start_local_ray
from jobs._plain import Parser, run_plain

CHECK_S = 5.0
STOP_DEADLINE_S = 60.0


class ServeConfig(BaseModel):
    """The command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path
    backend: Literal["auto", "vllm", "torch"] = "auto"  # auto: vLLM where it is installed
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)  # 0: a free one
    name: str | None = None  # of the model in requests; None: its folder's
    context: int = Field(4096, ge=2)  # tokens of prompt and answer together
    dtype: Literal["fp32", "bf16"] = "fp32"
    cache_gib: int = Field(1, ge=1)  # keys and values, on a CPU
    gpus: int = Field(0, ge=0, le=1)
    deadline_s: float = Field(900.0, gt=0)  # until it answers


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal comes, print the JSON line, return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        parser = Parser(prog="jobs/serve.py", description=__doc__.splitlines()[0] if __doc__ else None)
        parser.add_argument("settings", nargs="+", metavar="key=value", help="model=DIR and others; see the docstring")
        config = read_settings(parser.parse_args(argv).settings)
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        with tempfile.TemporaryDirectory(prefix="ilm-serve-") as scratch:
            _serve(config, servable(config.model, Path(scratch), config.dtype), stopped, summary)

    return run_plain("serve", work)


def read_settings(words: Sequence[str]) -> ServeConfig:
    """`key=value` words as settings. Raises UserError naming the key and the nearest right one."""
    values = dict[str, Any]()
    known = list(ServeConfig.model_fields)
    for word in words:
        key, sep, raw = word.partition("=")
        if not sep or not raw:
            raise UserError(f"'{word}' is not a setting; write key=value")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UserError(
                f"unknown setting '{key}'; " + (f"did you mean '{near[0]}'?" if near else f"known: {known}")
            )
        values[key] = raw if key in ("model", "host", "name") else yaml.safe_load(raw)
    if "model" not in values:
        raise UserError("model=DIR is missing; give a stage of a run or an exported folder")
    try:
        return ServeConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"setting '{first['loc'][0]}': {first['msg']}") from None


def _serve(config: ServeConfig, folder: Path, stopped: threading.Event, summary: dict[str, Any]) -> None:
    import ray

    from actors.ppo.rollout import choose_backend
    from actors.server import Server, ServerSettings

    name = config.name or config.model.absolute().name
    backend = choose_backend(config.backend, "backend")
    settings = ServerSettings(
        folder, name, backend, config.host, config.port, config.context, config.dtype, config.cache_gib
    )
    if "RAY_ADDRESS" in os.environ:
        join_cluster()
    else:
        start_local_ray(include_dashboard=False)
    try:
        # A cluster's other nodes do not have the exported folder: the actor stays on this one.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), False
        )
        server = ray.remote(Server).options(num_cpus=1, num_gpus=config.gpus, scheduling_strategy=here).remote(settings)
        try:
            url = ray.get(server.start.remote(config.deadline_s), timeout=config.deadline_s + 60)
            summary |= {"url": url, "model": name}
            print(f"serving {name} at {url} (chat page), {url}/v1 (OpenAI-compatible); Ctrl-C stops it", flush=True)
            while not stopped.wait(CHECK_S):
                ray.get(server.check.remote(), timeout=STOP_DEADLINE_S)
        finally:
            ray.get(server.stop.remote(), timeout=STOP_DEADLINE_S)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
