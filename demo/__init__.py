"""A small corpus of our own making for the demo, and the generator that makes it."""

from pathlib import Path

DATA = Path(__file__).parent / "data"


def name_anywhere(path: str) -> str:
    """A path or URL as a stage's inputs name it: what the package brings by its place in the package, for each
    submission of a job runs in another copy of it, and must find finished what an earlier one finished."""
    return path.replace(str(DATA), "demo")
