"""What every target of the fuzzing keeps to: a short line of refusal, little time, little memory."""

import contextlib
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

from ilm_ray.base.errors import UserError

CAMPAIGN = "FUZZ_MINUTES" in os.environ
CPU_S = 10.0  # of one example, many times what any of them takes
MEMORY_BYTES = 1 << 30  # that one example may take beyond what the process has
_CAMPAIGN_EXAMPLES = 400  # between two looks at the clock (see conftest.py)
_DATA = re.compile(r"VmData:\s+(\d+) kB")

Test = TypeVar("Test", bound=Callable[..., Any])


def few(examples: int) -> Callable[[Test], Test]:
    """Hypothesis' settings of a target: so many examples in `make test`, rounds of many in `make fuzz`."""
    return settings(
        max_examples=_CAMPAIGN_EXAMPLES if CAMPAIGN else examples,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fails where the block takes more than CPU_S or MEMORY_BYTES; kept by the kernel, so no loop can outlive it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    before = signal.signal(signal.SIGVTALRM, _too_slow)
    match = _DATA.search(Path("/proc/self/status").read_text())
    if match is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(match[1]) * 1024 + MEMORY_BYTES, hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """The block may end in a UserError for people: one line that a terminal shows as it is. Anything else fails."""
    try:
        with bounded():
            yield
    except UserError as error:
        message = str(error)
        assert message.strip() and message.isprintable(), f"no clear line: {message!r}"
        assert len(message) < 5000, f"a line of {len(message)} characters"


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise AssertionError(f"an example takes more than {CPU_S:g} s of CPU")
