"""Texts on which a regular expression takes long if it takes more than linear time: near misses of it, repeated.

From the parse tree of a pattern a string is drawn that it matches; every beginning of that string, repeated to a single
line of the wanted length, makes the pattern try again and again and fail late.
"""

import importlib
import pkgutil
import random
import re
import re._constants as sre
import re._parser as parser
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_CLASSES = {"CATEGORY_WORD": "a", "CATEGORY_DIGIT": "1", "CATEGORY_SPACE": " ", "CATEGORY_NOT_SPACE": "a"}
_ANY = "ab1 _-.:/=\"'(){}[]<>中"


def patterns(package: ModuleType) -> Iterator[tuple[str, "re.Pattern[str]"]]:
    """(where it stands, pattern) of every compiled pattern of text that a module of the package holds at its top."""
    seen: set[re.Pattern[str]] = set()
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        for name, value in sorted(vars(module).items()):
            for place, found in _held(name, value):
                if isinstance(found.pattern, str) and found not in seen:
                    seen.add(found)
                    yield f"{info.name}.{place}", found


def _held(name: str, value: Any) -> Iterator[tuple[str, "re.Pattern[str]"]]:
    if isinstance(value, re.Pattern):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _held(f"{name}[{key!r}]", item)
    elif isinstance(value, tuple | list | set | frozenset) and len(value) < 200:
        for number, item in enumerate(value):
            yield from _held(f"{name}[{number}]", item)


def near_misses(pattern: "re.Pattern[str]", length: int, draws: int = 6) -> Iterator[str]:
    """Lines of `length` characters that the pattern nearly matches, again and again."""
    rng = random.Random(repr(pattern.pattern))
    seen: set[str] = set()
    for _ in range(draws):
        word = _drawn(parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE), rng, {})[:60].replace("\n", " ")
        for end in sorted({1, 2, 3, len(word) // 2, len(word) - 1, len(word)}):
            for unit in (word[:end], word[:end] + rng.choice(_ANY), word[end:], word[:1] + word[end - 1 : end]):
                if unit and unit not in seen:
                    seen.add(unit)
                    yield (unit * (length // len(unit) + 1))[:length]
                    yield word[:end] + (unit[-1] * length)[: length - end]


def _drawn(tree: Any, rng: random.Random, groups: dict[int, str]) -> str:
    return "".join(_one(op, argument, rng, groups) for op, argument in tree)


def _one(op: Any, argument: Any, rng: random.Random, groups: dict[int, str]) -> str:
    if op is sre.LITERAL:
        return chr(argument)
    if op is sre.NOT_LITERAL:
        return rng.choice([c for c in _ANY if ord(c) != argument])
    if op is sre.ANY:
        return rng.choice(_ANY)
    if op is sre.IN:
        return _member(argument, rng)
    if op is sre.BRANCH:
        return _drawn(rng.choice(argument[1]), rng, groups)
    if op is sre.SUBPATTERN:
        text = _drawn(argument[3], rng, groups)
        groups[argument[0]] = text
        return text
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        least, most, part = argument
        count = min(most, max(least, rng.choice([1, 1, 2, 3])), 40)
        return "".join(_drawn(part, rng, groups) for _ in range(count))
    if op is sre.ATOMIC_GROUP:
        return _drawn(argument, rng, groups)
    if op is sre.GROUPREF:
        return groups.get(argument, "")
    if op is sre.GROUPREF_EXISTS:
        return _drawn(argument[1], rng, groups)
    return ""  # anchors and assertions


def _member(choices: Any, rng: random.Random) -> str:
    if choices[0][0] is sre.NEGATE:
        refused = re.compile(f"[{''.join(map(re.escape, _listed(choices[1:])))}]") if _listed(choices[1:]) else None
        free = [c for c in _ANY if refused is None or not refused.match(c)]
        return rng.choice(free or ["~"])
    return rng.choice(_listed(choices) or ["a"])


def _listed(choices: Any) -> list[str]:
    out = list[str]()
    for op, argument in choices:
        if op is sre.LITERAL:
            out.append(chr(argument))
        elif op is sre.RANGE:
            out += [chr(argument[0]), chr(argument[1])]
        elif op is sre.CATEGORY:
            out.append(_CLASSES.get(str(argument), "~"))
    return out
