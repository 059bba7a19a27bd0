"""One optimizer step as the planner sees it: its micro-batches, and the parameters that a rank holds."""

from dataclasses import dataclass

from ilm_ray.config.layout import Layout
from ilm_ray.config.section import Precision
from ilm_ray.model.shape import Shape


@dataclass(frozen=True)
class OptimizerStep:
    """`sequences` of `context` tokens over all ranks, `at_once` of them in a micro-batch of a replica."""

    context: int
    sequences: int
    at_once: int = 1
    precision: Precision = "bf16"
    loss_chunk: int = 1024  # tokens whose logits exist at once
    scalar: bool = False  # the head gives one number a token (reward model), not a vocabulary's logits

    @property
    def tokens(self) -> int:
        return self.context * self.sequences

    @property
    def width(self) -> int:
        """Bytes of a number in forward and backward; master weights, moments and reductions have 4."""
        return 2 if self.precision == "bf16" else 4

    def micros(self, layout: Layout) -> int:
        """Micro-batches of a replica."""
        assert layout.dp is not None
        return -(-self.sequences // layout.dp // self.at_once)

    def rows(self, layout: Layout) -> int:
        """Tokens of a micro-batch on a rank; a context-parallel rank has a slice."""
        unit = layout.row_unit
        return -(-self.context * self.at_once // unit) * unit // layout.cp


@dataclass(frozen=True)
class Pieces:
    """Parameters that a rank of a pipeline holds, after the split over tensor-parallel ranks.

    A tied matrix counts as the head's where that is, else as the embedding's: one unit of FSDP2 has it.
    """

    block: int
    blocks: int  # how many
    embedding: int
    norm: int
    head: int

    @property
    def root(self) -> int:
        """Parameters outside the blocks, which FSDP2 gathers and reduces as one unit."""
        return self.embedding + self.norm + self.head

    @property
    def all(self) -> int:
        return self.block * self.blocks + self.root


def block_matrices(shape: Shape) -> int:
    """Parameters of a block's matrices: wqkv, wo, w1, w3, w2."""
    attention = shape.hidden * (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    return attention + 3 * shape.hidden * shape.mlp_hidden


def block_vectors(shape: Shape, tp: int = 1) -> int:
    """Parameters of a block's norms and biases; only biases of rows that are split are split over `tp` ranks."""
    norms = 2 * shape.hidden + 2 * shape.head_dim * shape.qk_norm
    split = (shape.heads + 2 * shape.kv_heads) * shape.head_dim * shape.qkv_bias + 2 * shape.mlp_hidden * shape.mlp_bias
    return norms + split // tp + shape.hidden * (shape.out_bias + shape.mlp_bias)


def pieces(shape: Shape, layout: Layout, rank: int, scalar: bool = False) -> Pieces:
    """Parameters of rank `rank` of the pipeline; stages are cut as in `parallel.stages.cut`.

    scalar: as in `OptimizerStep`.
    """
    block = block_matrices(shape) // layout.tp + block_vectors(shape, layout.tp)
    stages = range(rank, layout.stages, layout.pp)
    table = shape.vocab_size * shape.hidden // layout.tp
    first, last = rank == 0, rank == layout.pp - 1
    blocks = sum(_layers(shape, layout, stage) for stage in stages)
    head = shape.hidden if scalar else table
    own = first and not (last and shape.tied and not scalar)
    return Pieces(block, blocks, embedding=table * own, norm=shape.hidden * last, head=head * last)


def _layers(shape: Shape, layout: Layout, stage: int) -> int:
    return (stage + 1) * shape.layers // layout.stages - stage * shape.layers // layout.stages


def flops_per_token(shape: Shape, context: int, causal: bool, scalar: bool = False) -> float:
    """Floating-point operations of forward and backward, nothing counted twice (torchtitan's convention).

    6 (N - N_embedding) + 6 L H (2 d) S: the second term is the work of queries and values on S keys. `causal` counts
    half of it, for half of the keys lie ahead; `scalar`: as in `OptimizerStep`.
    """
    matrices = shape.layers * block_matrices(shape) + (1 if scalar else shape.vocab_size) * shape.hidden
    vectors = shape.layers * block_vectors(shape) + shape.hidden
    attention = 12 * shape.layers * shape.heads * shape.head_dim * context
    return 6 * (matrices + vectors) + attention / (2 if causal else 1)
