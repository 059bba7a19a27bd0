"""The command line of a server on made-up GPU inventories, and what vLLM's own parser and rotation make of it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ilm_ray.base.errors import UserError
from ilm_ray.config.serving import ServeConfig
from ilm_ray.model.huggingface import export_model
from ilm_ray.model.internlm2 import CausalLM, Shape, initialize
from ilm_ray.model.rotary import rotary_tables
from ilm_ray.model.shape import RopeScaling
from ilm_ray.model.weights import save_internlm2
from ilm_ray.serving.command import ServerSettings, command, devices_of, environment, server_settings
from ilm_ray.serving.limits import known_context

SHAPE = Shape(160, 1, 48, 2, 3, 8, 32, rope_base=1e4, context=1024)
DYNAMIC = replace(SHAPE, context=64, rope_scaling=RopeScaling("dynamic", 2.0, 64))
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def exported(folder: Path, shape: Shape) -> Path:
    model = CausalLM(shape)
    initialize(model, 0)
    export_model(model, folder, "llama", torch.float32, IDS)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("plain"), SHAPE)


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("dynamic"), DYNAMIC)


def settings_of(folder: Path, node_gpus: int, **words: Any) -> ServerSettings:
    """The settings on a node with so many GPUs."""
    config = ServeConfig.model_validate(words)
    return server_settings(config, folder, "model", devices_of(config, node_gpus))


def options(settings: ServerSettings) -> dict[str, str]:
    """Option -> the word behind it, "" where another option follows."""
    words = command(settings)
    followed = [*words[1:], "--end"]
    return {
        word: "" if after.startswith("--") else after
        for word, after in zip(words, followed, strict=True)
        if word.startswith("--")
    }


@pytest.mark.parametrize("gpus", [0, 1, 4, 8])
def test_a_gpu_is_used_where_there_is_one_in_bf16_with_graphs(plain: Path, gpus: int) -> None:
    settings = settings_of(plain, gpus)
    assert (settings.gpus, settings.dtype) == ((1, "bf16") if gpus else (0, "fp32"))
    assert ("--enforce-eager" in options(settings)) == (gpus == 0)
    assert options(settings)["--dtype"] == ("bfloat16" if gpus else "float32")
    assert "--tensor-parallel-size" not in options(settings)
    assert environment(settings).get("CUDA_VISIBLE_DEVICES") == (None if gpus else "")  # no GPU that Ray did not book
    assert settings_of(plain, gpus, gpus=0).dtype == "fp32" and settings_of(plain, gpus, dtype="fp32").dtype == "fp32"


@pytest.mark.parametrize(("gpus", "advised"), [(2, 2), (3, 3), (4, 3), (5, 3), (6, 6)])
def test_gpus_that_are_named_share_the_model_or_are_refused(plain: Path, gpus: int, advised: int) -> None:
    """The model has six heads."""
    if gpus != advised:
        with pytest.raises(UserError, match=rf"6 attention heads evenly; set serve\.gpus={advised}$"):
            settings_of(plain, 8, gpus=gpus)
    assert options(settings_of(plain, 8, gpus=advised))["--tensor-parallel-size"] == str(advised)


def test_gpus_that_a_node_has_not_are_refused(plain: Path) -> None:
    with pytest.raises(UserError, match=r"serve\.gpus=2 but this node has 1; set at most serve\.gpus=1"):
        settings_of(plain, 1, gpus=2)


@pytest.mark.parametrize("gpus", [0, 1])
def test_the_context_is_the_models_own_and_no_longer_one_is_promised(plain: Path, tmp_path: Path, gpus: int) -> None:
    assert settings_of(plain, gpus).context == 1024
    assert options(settings_of(plain, gpus, context=512))["--max-model-len"] == "512"
    with pytest.raises(UserError, match=r"context=32768 lies beyond the 1024 .* set at most serve\.context=1024$"):
        settings_of(plain, gpus, context=32_768)
    long = exported(tmp_path, replace(SHAPE, context=40_000))
    assert settings_of(long, gpus).context == (40_000 if gpus else 4096)  # the cache of a CPU is small
    assert settings_of(long, gpus, context=40_000).overrides == {}


def test_a_folder_that_does_not_say_its_context_is_refused_by_name(tmp_path: Path) -> None:
    for content in ("{", "[]", "{}", '{"max_position_embeddings": null}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"config\.json does not describe a language model"):
            settings_of(tmp_path, 0)


def test_known_contexts_are_those_of_the_folders(plain: Path, tmp_path: Path) -> None:
    assert known_context(plain) == 1024
    save_internlm2(CausalLM(replace(SHAPE, context=77)), tmp_path / "sft" / "model")
    assert known_context(tmp_path / "sft") == known_context(tmp_path / "sft" / "model") == 77
    shape = tmp_path / "sft" / "model" / "shape.json"
    shape.write_text(json.dumps({k: v for k, v in json.loads(shape.read_text()).items() if k != "context"}))
    assert known_context(tmp_path / "sft") is None and known_context(tmp_path) is None  # an older folder; none at all


VLLM = """
import json, sys
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser, seen = make_arg_parser(FlexibleArgumentParser()), []
for words in json.load(sys.stdin):
    parsed = parser.parse_args(words[3:])
    validate_parsed_serve_args(parsed)
    arguments = AsyncEngineArgs.from_cli_args(parsed)
    model = arguments.create_model_config()
    seen.append([model.max_model_len, str(model.dtype), model.enforce_eager, arguments.tensor_parallel_size])
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.rotary_embedding import get_rope
with set_current_vllm_config(VllmConfig()):
    hf = model.hf_config
    turned = get_rope(hf.head_dim, hf.max_position_embeddings, rope_parameters=hf.rope_parameters, dtype=torch.float32)
print("\\n" + json.dumps([seen, turned.cos_sin_cache.tolist()]))
"""


@pytest.mark.slow  # half a minute; in `make test` vLLM's own server starts on a command line of ours (test_server.py)
@pytest.mark.process
@pytest.mark.timeout(600)
def test_vllm_takes_every_command_line_and_reaches_as_far_as_it_was_told(plain: Path, dynamic: Path) -> None:
    pytest.importorskip("vllm")
    cases = {
        (1024, "torch.float32", True, 1): settings_of(plain, 0),
        (1024, "torch.bfloat16", False, 1): settings_of(plain, 8),
        (100, "torch.bfloat16", False, 2): settings_of(plain, 8, gpus=2, context=100),
        (64, "torch.float32", True, 1): settings_of(dynamic, 0),
        (200, "torch.float32", True, 1): settings_of(dynamic, 0, context=200),
    }
    commands = json.dumps([command(settings) for settings in cases.values()])
    run = subprocess.run([sys.executable, "-c", VLLM], input=commands, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]
    seen, table = json.loads(run.stdout.splitlines()[-1])
    assert [tuple(figures) for figures in seen] == list(cases)
    # Its angles, up to the last position, are those of a document that fills the context.
    cos, sin = rotary_tables(torch.arange(200), DYNAMIC, torch.float32, torch.full((200,), 200))
    torch.testing.assert_close(torch.tensor(table), torch.cat([cos[:, :4], sin], 1), atol=1e-5, rtol=0)
