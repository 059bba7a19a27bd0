"""A small corpus of our own making for the demo, and the generator that makes it."""

from pathlib import Path

DATA = Path(__file__).parent / "data"
