"""Typed configuration of every job: schema, presets, overrides."""

from ilm_ray.config.load import load_config, save_config
from ilm_ray.config.schema import Config

__all__ = ["Config", "load_config", "save_config"]
