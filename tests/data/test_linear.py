"""No text costs more than linear time: every pattern of the data stages, and their work on a file, on 100 kB."""

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

import ilm_ray.data
from ilm_ray.data.code.files.filters import content_verdict
from ilm_ray.data.code.files.mask import mask
from ilm_ray.data.code.files.scores import scores
from ilm_ray.data.code.languages.imports import LANGUAGES, find_facts
from ilm_ray.data.code.prompts import MAX_SUMMARY
from ilm_ray.data.web.clean.normalise import drop_chrome, normalise
from tests.data.hostile import near_misses, patterns

LENGTH = 100_000  # characters, of one line
SECONDS = 5.0  # of CPU, on a slow machine; linear patterns took 1 at most, quadratic ones 30 to 300
# Patterns that see no more than so many characters, by what their places begin with.
BOUNDED = {
    "ilm_ray.data.web.clean.chrome.": 120,  # a line that may be the page's
    "ilm_ray.data.web.format.layout._ANSWER": 4_000,  # names and classes of an element
    "ilm_ray.data.code.files.generated.": 300,  # a line of the first comment
    "ilm_ray.data.code.files.detect.": 4_096,
    "ilm_ray.data.code.files.filters._VENDORED": 4_096,  # a path
    "ilm_ray.data.code.prompts._COMMENT_SIGNS": 10 * MAX_SUMMARY,
}
# Tried once, at the start of a text.
AT_START = {
    "ilm_ray.data.code.languages.python._ITEM",
    "ilm_ray.data.web.format.layout._DISPLAY_STYLE",
}
FOUND = dict(patterns(ilm_ray.data))


@contextmanager
def limited(what: str) -> Iterator[None]:
    def over(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"more than {SECONDS} s: {what}")

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.mark.long
@pytest.mark.parametrize("place", FOUND)
def test_every_pattern_takes_linear_time_on_a_hostile_line(place: str) -> None:
    length = next((bound for start, bound in BOUNDED.items() if place.startswith(start)), LENGTH)
    for text in near_misses(FOUND[place], length, draws=2):
        with limited(f"{place} on {text[:40]!r} ..."):
            if place in AT_START:
                FOUND[place].match(text)
                FOUND[place].fullmatch(text)
            else:
                for _ in FOUND[place].finditer(text):
                    pass


WORK: dict[str, Callable[[str], object]] = {
    "normalise": normalise,
    "drop_chrome": drop_chrome,
    "mask": mask,
    "content_verdict": lambda text: content_verdict("a.py", text, "python"),
    "scores": lambda text: scores(text, "python"),
    **{f"facts{suffix}": lambda text, suffix=suffix: find_facts(f"a{suffix}", text) for suffix in LANGUAGES},  # type: ignore[misc]
}
UNITS = [
    '"\\',
    "'\\",
    "`\\",
    "/*",
    "=/[",
    "{A=",
    "pub(",
    "use ",
    "import ",
    "$",
    'R"',
    "<<A",
    "a@",
    '\\"',
    "中 ",
    "， ",
    "| ",
    "\t",
]


@pytest.mark.long
@pytest.mark.parametrize("work", WORK)
def test_a_hostile_file_takes_seconds(work: str) -> None:
    for unit in UNITS:
        text = unit * (LENGTH // len(unit))
        with limited(f"{work} on {unit!r} ..."):
            WORK[work](text)


@pytest.mark.long
def test_a_quadratic_pattern_would_be_found() -> None:
    began = time.process_time()
    with pytest.raises(AssertionError, match="more than"):
        for text in near_misses(re.compile(r"/\*[\s\S]*?\*/"), LENGTH):
            with limited("a comment without an end"):
                list(re.finditer(r"/\*[\s\S]*?\*/", text))
    assert time.process_time() - began < 60
