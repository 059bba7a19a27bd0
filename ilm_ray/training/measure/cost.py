"""Cost of measuring a model: seconds from FLOP and bytes, tokens of a forward from bytes, deadlines from both.

The rates are those of a busy device, to bound a wait and not to foretell it.
"""

from ilm_ray.config.layout import Layout
from ilm_ray.model.shape import Shape
from ilm_ray.training.plan.step import flops_per_token, pieces

CPU_FLOPS = 5e10  # a second of one core in fp32; 51e9 were measured for this model's forward
GPU_FLOPS = 5e13  # a second of one GPU in bf16: less than half of what an A10 has on paper, a twentieth of an H100
GPU_BYTES = 3e11  # a second, from a GPU's memory: half of an A10's
READ_BYTES = 2e8  # a second, of weights from a shared disk
LAUNCH_S = 1e-3  # a layer of a forward of few tokens, whose kernels take less than their launch
SLACK = 10.0  # devices are shared, and slower than any of these
START_S = 600.0  # until a process has imported torch on a machine that does much else
FORWARD_BYTES = 4 * 2**30  # of activations, of a forward on a GPU


def forward_s(shape: Shape, tokens: int, context: int, on_gpu: bool) -> float:
    """Seconds of forwards over `tokens` tokens in windows of `context`, on one GPU or one core."""
    return tokens * flops_per_token(shape, context, causal=True) / 3 / (GPU_FLOPS if on_gpu else CPU_FLOPS)


def generation_s(shape: Shape, prompts: int, prompt_tokens: int, new_tokens: int, rows: int, on_gpu: bool) -> float:
    """Seconds of the embedded generator for so many prompts, `rows` of them at once; lengths are the most of each.

    On a GPU each step reads all weights; a core computes each token.
    """
    length = prompt_tokens + new_tokens
    computed = forward_s(shape, prompts * length, length, on_gpu)
    if not on_gpu:
        return computed
    steps = -(-prompts // rows) * new_tokens
    return computed + steps * (2 * parameters(shape) / GPU_BYTES + LAUNCH_S * shape.layers)


def deadline_s(shape: Shape, work_s: float, rounds: int = 1) -> float:
    """Seconds that `rounds` processes, one after the other, may take to load a model and work `work_s` seconds."""
    return rounds * (START_S + 4 * parameters(shape) / READ_BYTES + SLACK * work_s)


def parameters(shape: Shape) -> int:
    """Parameters of a language model."""
    return pieces(shape, Layout(), 0).all


def packed_tokens(shape: Shape, context: int, on_gpu: bool) -> int:
    """Tokens of a held-out window: at least `context`; on a GPU as many as FORWARD_BYTES hold, for launches cost more
    than small windows compute."""
    least = max(context, 1024)
    # A window ends with the document that fills it, so it may be a context longer.
    return max(least, FORWARD_BYTES // activation_bytes(shape) - context) if on_gpu else least


def activation_bytes(shape: Shape) -> int:
    """Bytes a token of a forward in bf16 that keeps nothing for a backward.

    A block's input, the residual, its norm and the rotary tables stay; beside them there is either attention, whose
    queries are turned in fp32, or SwiGLU with its gate, the gate's SiLU, the upper branch and their product. Logits are
    made by `loss_chunk` tokens.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    turning = 2 * (queries + 2 * keys) + 4 * queries + 4 * queries
    tables = 4 * shape.head_dim * 3 // 2
    return 6 * shape.hidden + tables + max(turning, 8 * shape.mlp_hidden)
