"""The size of the model that a run trains."""

from ilm_ray.config import Config
from ilm_ray.model.shape import Shape


def shape_of(config: Config, vocab_size: int) -> Shape:
    """The model's size; RoPE base and context are those of the first phase."""
    first = config.pretrain.phases[0]
    size = config.model.model_dump()
    return Shape(vocab_size=vocab_size, rope_base=first.rope_base, context=first.context, **size)
