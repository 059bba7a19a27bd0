"""The size of the model that a run trains."""

from dataclasses import replace

from ilm_ray.config import Config
from ilm_ray.config.fit import parameter_count
from ilm_ray.config.road import BASE, brings_tokenizer, brought, stages_on
from ilm_ray.model.hub import model_folder
from ilm_ray.model.shape import Shape


def shape_of(config: Config, vocab_size: int) -> Shape:
    """The size of a model that is grown here; RoPE base and context are those of the first phase."""
    first = config.pretrain.phases[0]
    assert first.rope_base is not None, "the configuration lets only a brought model go without"
    size = config.model.model_dump()
    return Shape(vocab_size=vocab_size, rope_base=first.rope_base, context=first.context, **size)


def continued(config: Config, shape: Shape) -> Shape:
    """The shape that continued pre-training gives a model in its first phase."""
    first = config.pretrain.phases[0]
    return replace(shape, rope_base=first.rope_base or shape.rope_base).trained_in(first.context)


def planned_shape(config: Config) -> Shape:
    """The shape that a run's trainings have, before any stage has run.

    In a run that begins with a model from outside it is that model's, by its config.json (downloaded where the model
    lies on the Hub). Raises UserError where that is not there or describes no model of ours.
    """
    if (stage := brings_tokenizer(config)) is None:
        return shape_of(config, config.tokenizer.vocab_size)
    from ilm_ray.model.huggingface import Description  # imports torch

    shape = Description(model_folder(brought(config)[stage].place, ["config.json"])).shape
    return continued(config, shape) if stage == BASE and "pretrain" in stages_on(config) else shape


def parameters_of(shape: Shape) -> int:
    """Parameters of a model of this shape, without its biases."""
    return parameter_count(shape, shape.vocab_size, shape.tied)
