"""The embedded generator against the packed model: same tokens, same log-probabilities, same law."""

import pytest
import torch

from ilm_ray.config import load_config
from ilm_ray.model import generate as generator
from ilm_ray.model.generate import attend_cached, generate, rows_at_once, sample
from ilm_ray.model.internlm2 import CausalLM, Packed, Shape, initialize

SHAPE = Shape(vocab_size=97, layers=2, hidden=64, kv_heads=2, queries_per_kv=2, head_dim=16, mlp_hidden=96)
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [3], [20, 30, 40]]


def _model() -> CausalLM:
    model = CausalLM(SHAPE)
    initialize(model, 3)
    with torch.no_grad():  # sharper than at initialisation, so that greedy choices are no ties
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model


@torch.no_grad()
def _full_logprobs(model: CausalLM, ids: list[int]) -> torch.Tensor:
    return model(Packed.of([ids])).log_softmax(-1)


def test_greedy_equals_argmax_of_the_full_forward() -> None:
    model = _model()
    for prompt, (ids, logprobs) in zip(PROMPTS, generate(model, PROMPTS, 12, temperature=0.0), strict=True):
        table = _full_logprobs(model, prompt + ids)[len(prompt) - 1 : -1]
        assert ids == table.argmax(-1).tolist()
        torch.testing.assert_close(torch.tensor(logprobs), table.max(-1).values, atol=1e-5, rtol=0)


def test_sampled_logprobs_are_those_of_the_untruncated_model() -> None:
    model = _model()
    for prompt, (ids, logprobs) in zip(PROMPTS, generate(model, PROMPTS, 12, 0.7, 0.8, seed=4), strict=True):
        table = _full_logprobs(model, prompt + ids)[len(prompt) - 1 : -1]
        expected = table.gather(1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-5, rtol=0)


def test_a_stop_token_ends_its_sequence_alone_and_is_kept() -> None:
    model = _model()
    free = generate(model, PROMPTS, 12, temperature=0.0)
    stop = free[0][0][3]
    for (ids, _), (cut, logprobs) in zip(free, generate(model, PROMPTS, 12, 0.0, stop_ids=[stop]), strict=True):
        end = ids.index(stop) + 1 if stop in ids else len(ids)
        assert cut == ids[:end] and len(logprobs) == end


def test_the_same_seed_gives_the_same_tokens() -> None:
    model = _model()
    assert generate(model, PROMPTS, 8, seed=1) == generate(model, PROMPTS, 8, seed=1)
    assert generate(model, PROMPTS, 8, seed=1) != generate(model, PROMPTS, 8, seed=2)


def test_batches_of_the_cache_give_the_answers_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = _model(), PROMPTS * 2
    whole = generate(model, prompts, 6, temperature=0.0)
    row = 2 * 2 * 2 * 16 * (7 + 6) * 4  # bytes: keys and values, layers, heads, head_dim, columns, fp32
    for rows in (1, 4):
        monkeypatch.setattr(generator, "CACHE_BYTES", rows * row + row // 2)
        for (ids, logprobs), (same, its) in zip(generate(model, prompts, 6, temperature=0.0), whole, strict=True):
            assert ids == same and logprobs == pytest.approx(its, abs=1e-5)
        sampled = generate(model, prompts, 6, 0.7, 0.8, seed=4)
        assert sampled == generate(model, prompts, 6, 0.7, 0.8, seed=4)
        for prompt, (ids, logprobs) in zip(prompts, sampled, strict=True):
            table = _full_logprobs(model, prompt + ids)[len(prompt) - 1 : -1]
            torch.testing.assert_close(
                torch.tensor(logprobs), table.gather(1, torch.tensor(ids)[:, None])[:, 0], atol=1e-5, rtol=0
            )


@pytest.mark.parametrize(("preset", "whole_gib"), [("7b", 64), ("20b", 96)])
def test_rows_of_a_batch_fill_the_cache(preset: str, whole_gib: int) -> None:
    """256 prompts of 2,048 tokens need so much in bf16."""
    config = load_config(preset)
    shape = Shape(vocab_size=config.tokenizer.vocab_size, **config.model.model_dump())
    assert rows_at_once(shape, 2048, 2) == 256 * generator.CACHE_BYTES // (whole_gib * 2**30)
    assert rows_at_once(shape, 10**9, 2) == 1


def test_nano_answers_all_prompts_of_its_evaluation_at_once() -> None:
    config = load_config("nano")
    shape = Shape(vocab_size=2048, **config.model.model_dump())
    columns = config.ppo.max_prompt_tokens + config.ppo.max_new_tokens
    assert rows_at_once(shape, columns, 4) >= config.evaluation.heldout_prompts


def test_repeated_keys_give_what_grouped_ones_give() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, heads, n, 16, generator=draw) for heads, n in ((4, 5), (2, 9), (2, 9)))
    mask = torch.rand(3, 1, 5, 9, generator=draw) > 0.3
    mask[..., 0] = True
    grouped, repeated = (attend_cached(q, k, v, mask, repeat) for repeat in (False, True))
    torch.testing.assert_close(grouped, repeated, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("top_p", "law"), [(0.8, [0.0, 0.625, 0.375, 0.0]), (1.0, [0.05, 0.5, 0.3, 0.15])])
def test_top_p_draws_the_renormalised_law(top_p: float, law: list[float]) -> None:
    probabilities = torch.tensor([0.05, 0.5, 0.3, 0.15])
    drawn = sample(probabilities.log().expand(40_000, -1), 1.0, top_p, torch.Generator().manual_seed(0))
    frequencies = drawn.bincount(minlength=4) / len(drawn)
    torch.testing.assert_close(frequencies, torch.tensor(law), atol=0.015, rtol=0)
