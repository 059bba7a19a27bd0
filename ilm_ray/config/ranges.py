"""Every numeric setting has a range: read from its type, and named when a value lies outside."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")  # pydantic's kinds of errors


class Range(NamedTuple):
    """Bounds of a number; None: no bound on that side. above, below: the bound itself does not belong to the range."""

    lowest: float | None = None
    highest: float | None = None
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.lowest:.15g}" if self.lowest is not None else ""
        high = f"{'below' if self.below else 'at most'} {self.highest:.15g}" if self.highest is not None else ""
        return " and ".join(words for words in (low, high) if words) or "any number"


def ranges_of(annotation: Any, bounds: Sequence[Any] = ()) -> Iterator[Range]:
    """The range of each number within a type that is no section, such as both numbers of `tuple[Share, Count]`."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        inner = [m for extra in arguments[1:] for m in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
        yield from ranges_of(arguments[0], [*bounds, *inner])
    elif arguments:  # bounds of a list are bounds of its length
        passed_on = () if get_origin(annotation) in (list, tuple, dict, set) else bounds
        for argument in arguments:
            yield from ranges_of(argument, passed_on)
    elif annotation in (int, float):
        yield _range(bounds)


def setting_ranges(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Range]]:
    """(setting, range) of all numbers of a section, those of sections within it too."""
    for name, field in section.model_fields.items():
        for found in ranges_of(field.annotation, field.metadata):
            yield f"{prefix}{name}", found
        for inner in sections_in(field.annotation):
            yield from setting_ranges(inner, f"{prefix}{name}.")


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a type holds: itself, or within tables, lists and alternatives."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in sections_in(argument)]


def range_at(model: type[BaseModel], place: Sequence[int | str]) -> Range | None:
    """The range of the number at a place that pydantic names, `("pretrain", "phases", 0, "steps")`; None: there is no
    one range."""
    sections, found = [model], list[Range]()
    for part in place:
        fields = [section.model_fields[part] for section in sections if part in section.model_fields]
        if fields:
            found = [r for field in fields for r in ranges_of(field.annotation, field.metadata)]
            sections = [inner for field in fields for inner in sections_in(field.annotation)]
    return found[0] if len(set(found)) == 1 else None


def _range(bounds: Sequence[Any]) -> Range:
    found = Range()
    for bound in bounds:
        if isinstance(bound, Ge | Gt):
            lowest: Any = bound.ge if isinstance(bound, Ge) else bound.gt
            found = found._replace(lowest=float(lowest), above=isinstance(bound, Gt))
        elif isinstance(bound, Le | Lt):
            highest: Any = bound.le if isinstance(bound, Le) else bound.lt
            found = found._replace(highest=float(highest), below=isinstance(bound, Lt))
    return found
