"""Typed configuration of every job: schema, presets, overrides."""

from ilm_ray.config.load import load_config as load_config
from ilm_ray.config.load import save_config as save_config
from ilm_ray.config.schema import Config as Config
