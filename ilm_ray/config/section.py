"""Building blocks of the configuration: a field's type gives its range, and whether it is part of a result."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ilm_ray.base.places import settled


def _no_truth_value(value: Any) -> Any:
    """`sft.epochs=yes` is no number, though Python and pydantic take it for 1."""
    if isinstance(value, bool):
        raise ValueError(f"write a number instead of {str(value).lower()}")
    return value


_Number = BeforeValidator(_no_truth_value)
MOST = 10**15  # of anything that is counted: beyond it nothing fits into a machine
# Numbers by what they count or measure; every numeric setting is one of these or narrows one.
Count = Annotated[int, Field(ge=1, le=MOST), _Number]
CountOrZero = Annotated[int, Field(ge=0, le=MOST), _Number]
Context = Annotated[int, Field(ge=16, le=2**24), _Number]  # tokens: an empty conversation alone takes about ten
Share = Annotated[float, Field(ge=0, le=1), _Number]
PositiveShare = Annotated[float, Field(gt=0, le=1), _Number]
Momentum = Annotated[float, Field(ge=0, lt=1), _Number]
Rate = Annotated[float, Field(gt=0, le=1), _Number]  # of learning
Weight = Annotated[float, Field(ge=0, le=1e6), _Number]  # of a part of a sum
Positive = Annotated[float, Field(gt=0, le=1e12), _Number]
Seconds = Annotated[float, Field(gt=0, le=1e8), _Number]
Precision = Literal["fp32", "bf16"]
# A path, a glob or a URL of data. Relative ones are looked for where the job starts, then in the tree (base/places.py).
Place = Annotated[str, AfterValidator(settled)]


class NotInResult:
    """Metadata of a field whose value does not count when a stage decides whether its result is still valid."""


_T = TypeVar("_T")
# Says how the work is done; its result is the same for any value: `log_every: How[Count] = 10`. Raising a bound after a
# failure costs no finished work.
How = Annotated[_T, NotInResult]
# Names a file, folder or service that counts by its content or version, in the stage's `sources` or settings.
ByContent = Annotated[_T, NotInResult]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, so are NaN and infinity; values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def result_settings(section: BaseModel) -> dict[str, Any]:
    """The settings that a section's results depend on, as plain values, sections within it too."""
    fields = type(section).model_fields.items()
    return {name: _plain(getattr(section, name)) for name, field in fields if NotInResult not in field.metadata}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return result_settings(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, list | tuple) else value
