"""When a run that loses ranks goes on, and when it is of no use any more. Knows nothing of Ray."""

from collections.abc import Sequence
from dataclasses import dataclass

SAME_PLACE = 3  # falls in a row
WITHOUT_PROGRESS = 10  # falls since the run last came further than before


@dataclass(frozen=True)
class Fall:
    """Ranks were lost in an iteration: which groups, and the methods that they were in."""

    iteration: int
    places: frozenset[tuple[str, str]]


def why_hopeless(falls: Sequence[Fall]) -> str | None:
    """The reason why another attempt would be in vain, None where one is worth it. `falls`: all so far, in order."""
    last = falls[-SAME_PLACE:]
    if len(last) == SAME_PLACE and len(set(last)) == 1:
        return f"{SAME_PLACE} times in a row at this place"
    furthest = max(fall.iteration for fall in falls)
    since = len(falls) - next(i for i, fall in enumerate(falls) if fall.iteration == furthest)
    if since >= WITHOUT_PROGRESS:
        return f"{since} losses without getting beyond iteration {furthest}"
    return None
