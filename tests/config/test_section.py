"""Which settings are part of a result: against a dump that leaves the same ones out by their paths."""

from pydantic import BaseModel, Field

from ilm_ray.config import Config, load_config
from ilm_ray.config.section import ByContent, Count, How, NotInResult, Section, result_settings


class _Inner(Section):
    size: Count = 1
    speed: How[Count | None] = None


class _Outer(Section):
    name: str = "a"
    file: ByContent[str | None] = None
    inner: _Inner = _Inner()
    table: dict[str, _Inner] = Field(default_factory=lambda: {"x": _Inner(size=2)})
    row: list[_Inner] = Field(default_factory=lambda: [_Inner(size=3)])
    pair: tuple[float, float] = (0.9, 0.95)


def test_marked_settings_are_left_out_wherever_they_stand() -> None:
    left_out = {
        "file": True,
        "inner": {"speed"},
        "table": {"x": {"speed"}},
        "row": {0: {"speed"}},
    }
    settings = _Outer(file="f", inner=_Inner(speed=4))
    assert result_settings(settings) == settings.model_dump(exclude=left_out)  # type: ignore[arg-type]
    assert result_settings(settings) == result_settings(_Outer()), "how and which file change no result"
    assert result_settings(settings) != result_settings(_Outer(inner=_Inner(size=9)))


def test_a_mark_does_not_loosen_a_setting() -> None:
    config = load_config("nano")
    assert [name for name, field in Config.model_fields.items() if NotInResult in field.metadata] == []
    for section in (config.sft, config.reward, config.ppo):
        assert "checkpoint_every" not in result_settings(section)
        assert _refuses(type(section), section.model_dump() | {"checkpoint_every": 0})


def _refuses(model: type[BaseModel], values: dict[str, object]) -> bool:
    try:
        model.model_validate(values)
    except ValueError:
        return True
    return False
