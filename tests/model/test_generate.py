"""The embedded generator against the packed model: same tokens, same log-probabilities, same law."""

import torch

from ilm_ray.model.generate import generate, sample
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


def test_top_p_draws_the_renormalised_law() -> None:
    probabilities = torch.tensor([0.05, 0.5, 0.3, 0.15])
    drawn = sample(probabilities.log().expand(40_000, -1), 1.0, 0.8, torch.Generator().manual_seed(0))
    frequencies = drawn.bincount(minlength=4) / len(drawn)
    torch.testing.assert_close(frequencies, torch.tensor([0.0, 0.625, 0.375, 0.0]), atol=0.015, rtol=0)
