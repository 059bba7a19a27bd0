"""Perplexity mode through the real vLLM against our own model, on the choices of real benchmarks."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from actors.evaluator import ModelUnderTest, plan_sets, run_sets
from ilm_ray.data.tokenizer.base import first_tokens
from ilm_ray.data.tokenizer.cl100k import cl100k
from ilm_ray.data.tokenizer.tokenizer import Tokenizer
from ilm_ray.evaluation.data import write_data
from ilm_ray.evaluation.suites import BENCHMARKS
from ilm_ray.model.internlm2 import CausalLM, Packed, Shape, initialize
from ilm_ray.model.weights import load_causal, save_internlm2

VOCABULARY = 1024
CONTEXT = 8192
EXAMPLES = 8
DEADLINE_S = 900.0
SETS = ("MMLU.base/lukaemon_mmlu_abstract_algebra", "CMMLU.base/cmmlu-agronomy", "C3.base/C3")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_scores_through_vllm_are_those_of_our_model(
    local_ray: None, python: Path, shared_data: Path, tmp_path: Path
) -> None:
    """Each choice's mean negative log-probability to 1e-3, and the same choices taken."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: run `make setup`")
    from actors.server import Server
    from ilm_ray.serving.command import ServerSettings
    from ilm_ray.serving.folder import servable

    write_data(shared_data / "eval", tmp_path / "root")
    tokenizer = Tokenizer(first_tokens(cl100k()[0], 900), VOCABULARY)
    tokenizer.save(tmp_path / "tokenizer")
    model = CausalLM(Shape(VOCABULARY, 2, 64, 2, 2, 32, 96, init_std=0.15))
    initialize(model, 7)
    save_internlm2(model, tmp_path / "sft" / "model")
    folder = servable(tmp_path / "sft", tmp_path / "export", "fp32")
    server = ray.remote(Server).options(num_cpus=1).remote(ServerSettings(folder, "model", context=CONTEXT))
    try:
        url = ray.get(server.start.remote(DEADLINE_S), timeout=DEADLINE_S + 60)
        target = ModelUnderTest(
            url, "model", str(folder), CONTEXT, str(tmp_path / "root"), str(tmp_path / "out"), EXAMPLES
        )
        wanted = {name.split("/")[0] for name in SETS}
        planned = plan_sets([b for b in BENCHMARKS if b.key in wanted], target, python, DEADLINE_S)
        sets = [work for work in planned if work.file.removesuffix(".json") in SETS]
        run_sets(sets, target, python, 1, DEADLINE_S)
    finally:
        ray.get(server.stop.remote(), timeout=60)
        ray.kill(server)
    ours = load_causal(tmp_path / "sft" / "model").eval()
    for name in SETS:
        key, set_name = name.split("/")
        rows = json.loads((tmp_path / "out/opencompass" / key / "predictions/model" / f"{set_name}.json").read_text())
        assert len(rows) == EXAMPLES
        for row in rows.values():
            scored = {label[len("label: ") :]: score for label, score in row.items() if label.startswith("label: ")}
            expected = {label: _mean_loss(ours, tokenizer, score["prompt"]) for label, score in scored.items()}
            losses = {label: score["PPL"] for label, score in scored.items()}
            assert losses == pytest.approx(expected, abs=1e-3)
            assert str(row["prediction"]) == min(expected, key=lambda label: expected[label])


def _mean_loss(model: CausalLM, tokenizer: Tokenizer, prompt: Any) -> float:
    """Nats of all tokens after <s>, divided by the number of all tokens."""
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    with torch.no_grad():
        logits = model(Packed.of([ids])).float()
    chosen = logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])
    return -chosen.sum().item() / len(ids)
