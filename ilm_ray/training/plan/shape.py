"""The size of the model that a run trains."""

from ilm_ray.config import Config
from ilm_ray.model.shape import Shape


def shape_of(config: Config, vocab_size: int) -> Shape:
    """The model's size; the RoPE base is that of the first phase."""
    return Shape(vocab_size=vocab_size, rope_base=config.pretrain.phases[0].rope_base, **config.model.model_dump())
