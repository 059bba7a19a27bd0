"""A small model of ours, served by vLLM under a Ray actor, once for all tests."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.model.internlm2 import CausalLM, Shape, initialize
from ilm_ray.model.weights import save_internlm2

VOCABULARY = 1024
DEADLINE_S = 900.0  # vLLM's start takes half a minute of processor time


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a tokenizer and, as its stage `sft`, a random model that never ends an answer by itself."""
    run = tmp_path_factory.mktemp("run")
    ranks, _ = cl100k()
    tokenizer = Tokenizer(first_tokens(ranks, 900), VOCABULARY)
    tokenizer.save(run / "tokenizer")
    model = CausalLM(Shape(VOCABULARY, 2, 64, 2, 2, 32, 96, init_std=0.15))
    initialize(model, 7)
    with torch.no_grad():  # every token says the same in the first channel, which speaks against what ends an answer
        model.model.tok_embeddings.weight[:, 0] = 3.0
        model.output.weight[[tokenizer.eos_id, tokenizer.im_end_id], 0] = -50.0
    save_internlm2(model, run / "sft" / "model")
    return run


@contextmanager
def serving(stage: Path, scratch: Path, dtype: str = "fp32") -> Iterator[str]:
    """Base URL of a server, whose model is `nano`, under a Ray actor."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: run `make setup`")
    import ray

    from actors.server import Server
    from ilm_ray.serving.command import ServerSettings
    from ilm_ray.serving.folder import servable

    folder = servable(stage, scratch, dtype)
    settings = ServerSettings(folder, "nano", context=512, dtype=dtype)
    server = ray.remote(Server).options(num_cpus=1).remote(settings)
    try:
        yield ray.get(server.start.remote(DEADLINE_S), timeout=DEADLINE_S + 60)
    finally:
        ray.get(server.stop.remote(), timeout=60)
        ray.kill(server)


@pytest.fixture(scope="session")
def served(local_ray: None, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of the server; its model is `nano`."""
    with serving(small_run / "sft", tmp_path_factory.mktemp("export")) as url:
        yield url
