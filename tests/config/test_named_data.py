"""Data has no default: needed and not named is refused in one line, optional and not named is off and says so."""

import json
from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.base.places import located
from ilm_ray.config import load_config
from ilm_ray.config.load import PRESETS
from ilm_ray.config.named_data import check_named, needed, off_line, stage_off, steps_off
from ilm_ray.config.road import STAGES
from jobs import doctor, pipeline
from jobs.frame import stages as frame

ROAD = [stage.name for stage in pipeline.STAGES]
LARGE = [preset for preset in PRESETS if preset != "nano"]
NEEDED = {"input", "sft.data", "reward.data", "ppo.prompts", "code.source"}
NAMED = ["input=/c/*.gz", "sft.data=/s", "reward.data=/r", "ppo.prompts=/p", "code.source=/repositories"]
PHASE_3 = [f"text.sources.{name}.input" for name in ("stem", "special_domain", "high_quality")]
NAMED += [f"{setting}=/d/*.parquet" for setting in PHASE_3]
NO_DATA = ["input", "sft.data", "reward.data", "ppo.prompts", "code.source", "decontamination.benchmarks"]
NO_DATA += ["text.blocked_domains", "text.blocked_words"]
NO_DATA += [f"text.classifiers.{n}.labels" for n in ("toxicity", "pornography", "advertisement", "fluency")]


def test_the_road_is_all_stages() -> None:
    assert tuple(ROAD) == STAGES


@pytest.mark.parametrize("preset", LARGE)
def test_a_large_preset_names_no_data_and_carries_no_limit_of_the_demo(preset: str) -> None:
    config = load_config(preset)
    wanted = NEEDED | {*PHASE_3} if preset != "mini" else NEEDED - {"code.source"}  # its mixtures are English alone
    assert needed(config, ROAD).keys() == wanted
    assert "demo" not in json.dumps(config.model_dump(mode="json"))
    assert config.code.max_files is None and config.ray.object_store_mb is None and config.ray.num_cpus is None
    assert config.text.shuffle_partitions is None and config.pretrain.heldout_share <= 0.001
    with pytest.raises(UserError) as refused:
        check_named(config, ROAD)
    assert all(setting in str(refused.value) for setting in wanted) and "\n" not in str(refused.value)
    check_named(load_config(preset, None, NAMED), ROAD)


def test_only_nano_names_the_demo() -> None:
    config = load_config("nano")
    assert not needed(config, ROAD) and not steps_off(config)
    assert all(Path(located(str(path))).is_file() for path in (config.sft.data, config.reward.data, config.ppo.prompts))
    bare = load_config("nano", None, [f"{setting}=null" for setting in NO_DATA])
    assert needed(bare, ROAD).keys() == NEEDED
    assert "demo" not in json.dumps(bare.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("stages", "settings", "missing"),
    [
        (["sft"], [], {"sft.data"}),
        (["reward"], [], {"reward.data"}),
        (["text"], [], {"input"}),
        (["text"], ["text.sources.books.input=/b/*.txt"], set()),
        (["code"], [], {"code.source"}),  # the mixtures of the preset read code
        (["tokenizer", "tokens", "pretrain"], [], set()),
        (["online"], ["reward.data=/r"], {"ppo.prompts"}),
    ],
)
def test_a_stage_needs_what_it_reads(stages: list[str], settings: list[str], missing: set[str]) -> None:
    assert needed(load_config("7b", None, settings), stages).keys() == missing


def test_code_is_off_where_no_mixture_reads_it() -> None:
    phases = [phase.model_dump() for phase in load_config("7b").pretrain.phases]
    for phase in phases:
        phase["mixture"] = {"en": 1.0}
    config = load_config("7b", None, [f"pretrain.phases={json.dumps(phases)}"])
    assert not needed(config, ["code"])
    assert stage_off(config, "code") == {"code.source": "no source named"}


def test_a_phase_without_data_for_its_mixture_is_refused_or_left_out() -> None:
    given = [setting for setting in NAMED if not setting.startswith("text.sources.special")]
    with pytest.raises(UserError, match=r"special_domain.input .* or pretrain.without=\[enhancement\]"):
        check_named(load_config("7b", None, given), ROAD)
    config = load_config("7b", None, [*given, "pretrain.without=[enhancement]"])
    check_named(config, ROAD)
    assert [phase.name for phase in config.pretrain.phases] == ["short_context", "long_context"]
    assert config == type(config).model_validate(config.model_dump())  # as a run folder remembers it
    with pytest.raises(UserError, match="there is no phase 'enhancment'; the phases are short_context"):
        load_config("7b", None, ["pretrain.without=[enhancment]"])
    phase = "{name: a, steps: 1, context: 16, rope_base: 1e4, batch_tokens: 32, max_lr: 1, mixture: {ne: 1}}"
    wrong = [f"pretrain.phases=[{phase}]"]
    assert "text.sources.ne.input" in needed(load_config("nano", None, wrong), ROAD)


def test_what_is_off_is_said_by_setting() -> None:
    config = load_config("7b", None, ["text.blocked_words=/w", "text.classifiers.fluency.model=/m"])
    off = steps_off(config)
    assert off == {
        "text.blocked_domains": "no list named",
        "text.classifiers.toxicity": "no model named",
        "text.classifiers.pornography": "no model named",
        "text.classifiers.advertisement": "no model named",
        "decontamination.benchmarks": "no benchmark named",
        "code.source": "no source named",
    }
    assert off_line(stage_off(config, "text")) == (
        "off: no list named (text.blocked_domains); no model named (text.classifiers.toxicity, "
        "text.classifiers.pornography, text.classifiers.advertisement)"
    )


def test_a_job_refuses_before_it_looks_at_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("Ray was touched")

    monkeypatch.setattr(frame, "LocalRay", touched)
    with pytest.raises(SystemExit) as ended:
        frame.run_job("pipeline", pipeline.STAGES, ["--preset", "7b", "--run-dir", str(tmp_path / "run")])
    captured = capsys.readouterr()
    assert ended.value.code == 2 and len(captured.err.splitlines()) == 1
    assert "input (a glob of web archives)" in captured.err
    assert json.loads(captured.out)["status"] == "refused" and not (tmp_path / "run").exists()


def test_a_source_shares_the_classifiers_of_its_run() -> None:
    source = ["text.sources.books.input=/b/*.txt"]
    load_config("nano", None, [*source, "text.sources.books.settings.classifiers.fluency.threshold=0.1"])
    with pytest.raises(UserError, match="fluency it may set the threshold alone"):
        load_config("nano", None, [*source, "text.sources.books.settings.classifiers.fluency.model=/m"])


def test_the_doctor_says_what_is_not_named_and_what_is_off() -> None:
    assert doctor._data(load_config("nano")).ok
    off = doctor._data(load_config("7b", None, NAMED))
    assert off.ok and "off: no list named (text.blocked_domains, text.blocked_words); no model named" in off.observation
    lacking = doctor._data(load_config("7b"))
    assert not lacking.ok and all(setting in lacking.todo for setting in NEEDED)
    assert "code.source" not in lacking.observation  # it is needed, not off
