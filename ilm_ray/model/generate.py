"""The embedded generator: batched sampling with a key-value cache, in plain torch, for where vLLM is not installed."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ilm_ray.model.internlm2 import Block, CausalLM
from ilm_ray.model.rotary import rotary_tables
from ilm_ray.model.shape import Shape

GREEDY_BELOW = 1e-5  # vLLM's: divided by less, logits overflow
CACHE_BYTES = 8 * 2**30  # of keys and values at once; the same on every device, for it decides what a seed draws


def rows_at_once(shape: Shape, columns: int, width: int) -> int:
    """Prompts whose cache for `columns` tokens each, of numbers of `width` bytes, CACHE_BYTES hold; at least one."""
    return max(1, CACHE_BYTES // (2 * shape.layers * shape.kv_heads * shape.head_dim * columns * width))


@torch.no_grad()
def generate(
    model: CausalLM,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop_ids: Sequence[int] = (),
    seed: int = 0,
) -> list[tuple[list[int], list[float]]]:
    """For each prompt the new tokens (with the stop token, if one came) and their log-probabilities.

    Temperature 0 takes the likeliest token. Log-probabilities are those of the untruncated distribution at temperature
    1, for any distribution drawn from: a trainer computes the same for these tokens. Prompts must not be empty; they
    are answered in batches, in their order, as many at once as the cache has room for.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device=device).manual_seed(seed)
    stops = torch.tensor(list(stop_ids), dtype=torch.long, device=device)
    columns, width = max(map(len, prompts)) + max_new_tokens, next(model.parameters()).element_size()
    rows = rows_at_once(model.shape, columns, width)
    answers: list[tuple[list[int], list[float]]] = []
    for start in range(0, len(prompts), rows):
        batch = prompts[start : start + rows]
        answers += _generate_batch(model, batch, max_new_tokens, temperature, top_p, stops, generator)
    return answers


def _generate_batch(
    model: CausalLM,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    stops: Tensor,
    generator: torch.Generator,
) -> list[tuple[list[int], list[float]]]:
    device, longest = stops.device, max(map(len, prompts))
    # Padded on the left, so that all sequences take their next token in the same column.
    pads = torch.tensor([longest - len(p) for p in prompts], device=device)
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    cache = _Cache(model, len(prompts), longest + max_new_tokens, pads)
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    ids: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    for _ in range(max_new_tokens):
        logits = cache.forward(tokens).float()
        drawn = sample(logits, temperature, top_p, generator)
        chosen = logits.log_softmax(-1).gather(1, drawn[:, None])[:, 0]
        step_ids, step_logprobs = drawn.tolist(), chosen.tolist()
        for row in running.nonzero()[:, 0].tolist():
            ids[row].append(step_ids[row])
            logprobs[row].append(step_logprobs[row])
        running &= ~torch.isin(drawn, stops)
        if not running.any():
            break
        tokens = drawn[:, None]
    return list(zip(ids, logprobs, strict=True))


def sample(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> Tensor:
    """One token a row from the smallest set of likeliest tokens whose probability reaches top_p.

    logits: (rows, vocabulary) fp32; result: (rows) int64.
    """
    if temperature < GREEDY_BELOW:
        return logits.argmax(-1)
    probabilities = (logits / temperature).softmax(-1)
    if top_p >= 1:  # all tokens stay: sorting them would cost more than the model's own forward on small ones
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
    probabilities, order = probabilities.sort(-1, descending=True)
    before = probabilities.cumsum(-1) - probabilities
    kept = probabilities.masked_fill(before >= top_p, 0.0)
    kept[:, 0] = probabilities[:, 0]  # the likeliest stays, however small top_p
    return order.gather(1, torch.multinomial(kept, 1, generator=generator))[:, 0]


def attend_cached(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, repeat: bool) -> Tensor:
    """Attention with a mask. q: (rows, heads, columns, head_dim); keys, values: (rows, kv_heads, cached, head_dim).

    repeat: keys and values once for each query head, which CUDA's fused kernels need where there is a mask: with
    `enable_gqa` as well, torch would fall back to whole matrices of scores.
    """
    if repeat:
        keys, values = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (keys, values))
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=not repeat)


class _Cache:
    """Keys and values of all layers, (rows, kv_heads, columns, head_dim) each, and the forward that fills them."""

    def __init__(self, model: CausalLM, rows: int, columns: int, pads: Tensor) -> None:
        self.model, self.pads, self.filled = model, pads, 0
        s, weight = model.shape, model.model.tok_embeddings.weight
        size = (s.layers, 2, rows, s.kv_heads, columns, s.head_dim)
        self.store = torch.zeros(size, dtype=weight.dtype, device=weight.device)

    def forward(self, tokens: Tensor) -> Tensor:
        """Append tokens (rows, columns) and return the logits of the last column, (rows, vocabulary)."""
        first, last = self.filled, self.filled + tokens.shape[1]
        columns = torch.arange(last, device=tokens.device)
        queries = columns[first:]
        positions = (queries - self.pads[:, None]).clamp(min=0)
        seen = (columns <= queries[:, None]) & (columns >= self.pads[:, None, None])
        # A padded query sees itself: a row without any key would give NaN, and NaN times 0 is NaN.
        mask = (seen | (columns == queries[:, None]))[:, None]
        x, shape = self.model.model.tok_embeddings(tokens), self.model.shape
        # Keys keep the turn of the length at which they came, as in Transformers' cache.
        lengths = (last - self.pads)[:, None].expand_as(positions).flatten() if shape.stretches(last) else None
        turns = rotary_tables(positions.flatten(), shape, x.dtype, lengths)
        for layer, block in enumerate(self.model.model.layers.values()):
            assert isinstance(block, Block)
            x = self._block(block, layer, x, turns, mask, first, last)
        self.filled = last
        return self.model.head(self.model.model.norm(x[:, -1]))

    def _block(
        self, block: Block, layer: int, x: Tensor, turns: tuple[Tensor, Tensor], mask: Tensor, first: int, last: int
    ) -> Tensor:
        s, (rows, columns, _) = self.model.shape, x.shape
        projected = block.attention.project(block.attention_norm(x).flatten(0, 1), *turns)

        def by_head(t: Tensor) -> Tensor:
            return t.view(rows, columns, -1, s.head_dim).transpose(1, 2)

        q, k, v = (by_head(t) for t in projected)
        self.store[layer, 0, :, :, first:last], self.store[layer, 1, :, :, first:last] = k, v
        keys, values = self.store[layer, 0, :, :, :last], self.store[layer, 1, :, :, :last]
        out = attend_cached(q, keys, values, mask, q.is_cuda)
        x = x + block.attention.wo(out.transpose(1, 2).flatten(2))
        return x + block.feed_forward(block.ffn_norm(x))
