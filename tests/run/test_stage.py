"""Stages: skipped when nothing changed, run again when something did, resumed after a kill, never over strangers."""

import json
from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import sha256_of
from ilm_ray.config import Config, load_config
from ilm_ray.run import manifest as manifests
from ilm_ray.run.journal import Journal, read_journal
from ilm_ray.run.stage import Context, Result, Stage, check_run_dir, run_stage

CONFIG = load_config("nano")


def stage(name: str, needs: tuple[str, ...] = (), key: str = "seed", die: bool = False) -> Stage:
    """Writes a file that depends on one setting and on what it needs; dies after the first half if told to."""

    def work(context: Context) -> Result:
        path = context.folder / "out.txt"
        half = context.folder / "half.txt"
        if not half.exists():
            half.write_text("made once")
        if die:
            (context.folder / ".out.txt.1.tmp").write_text("torn")
            raise KeyboardInterrupt
        text = [getattr(context.config, key), *((context.of(n) / "out.txt").read_text() for n in needs)]
        path.write_text(json.dumps(text))
        return Result([path], {"summary": {}})

    return Stage(name, needs, lambda config: {key: getattr(config, key)}, work)


def run(stages: list[Stage], config: Config, run_dir: Path) -> list[str]:
    """Names of the stages that ran rather than being skipped."""
    run_dir.mkdir(exist_ok=True)
    journal = Journal(run_dir / "journal.jsonl")
    before = len(read_journal(journal.path))
    for member in stages:
        run_stage(member, config, run_dir, journal)
    return [e["stage"] for e in read_journal(journal.path)[before:] if e["kind"] == "run"]


ROAD = [stage("a"), stage("b", ("a",), key="preset"), stage("c", ("b",), key="preset"), stage("d", key="preset")]


def test_a_second_run_skips_everything_and_a_changed_setting_runs_what_depends_on_it(tmp_path: Path) -> None:
    assert run(ROAD, CONFIG, tmp_path) == ["a", "b", "c", "d"]
    assert run(ROAD, CONFIG, tmp_path) == []
    assert run(ROAD, CONFIG.model_copy(update={"seed": 99}), tmp_path) == ["a", "b", "c"]
    why = [e["why"] for e in read_journal(tmp_path / "journal.jsonl") if e["kind"] == "run"][-3:]
    assert why[0] == "setting seed changed from 1234 to 99"
    assert why[1] == "input 'a' changed"


def test_a_stage_whose_output_stays_the_same_stops_the_wave(tmp_path: Path) -> None:
    run(ROAD, CONFIG, tmp_path)
    (tmp_path / "b" / "out.txt").unlink()
    # b writes the same bytes again, so c has nothing to do.
    assert run(ROAD, CONFIG, tmp_path) == ["b"]


def test_a_killed_stage_finds_its_partial_files_and_no_torn_ones(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run([stage("a", die=True)], CONFIG, tmp_path)
    assert manifests.load(tmp_path / "a") is None
    (tmp_path / "a" / "half.txt").write_text("by the first attempt")
    run([stage("a")], CONFIG, tmp_path)
    assert (tmp_path / "a" / "half.txt").read_text() == "by the first attempt"
    assert not list((tmp_path / "a").glob(".*.tmp"))


def test_partial_files_of_other_settings_are_not_used(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run([stage("a", die=True)], CONFIG, tmp_path)
    (tmp_path / "a" / "half.txt").write_text("by the first attempt")
    run([stage("a")], CONFIG.model_copy(update={"seed": 5}), tmp_path)
    assert (tmp_path / "a" / "half.txt").read_text() == "made once"


def test_a_torn_marker_means_no_partial_results(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run([stage("a", die=True)], CONFIG, tmp_path)
    (tmp_path / "a" / "in_progress").write_text("")
    assert run([stage("a")], CONFIG, tmp_path) == ["a"]


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "thesis.py").write_text("years of work")
    with pytest.raises(UserError, match="was not written by stage 'code'"):
        check_run_dir([stage("code")], CONFIG, tmp_path)
    with pytest.raises(UserError, match="needs stage 'a'"):
        check_run_dir([stage("b", ("a",))], CONFIG, tmp_path)
    check_run_dir([stage("a"), stage("b", ("a",))], CONFIG, tmp_path)


def test_a_damaged_manifest_is_one_line(tmp_path: Path) -> None:
    run([stage("a")], CONFIG, tmp_path)
    (tmp_path / "a" / "manifest.json").write_text('{"stage": "a"')
    with pytest.raises(UserError, match="is no manifest"):
        check_run_dir([stage("b", ("a",))], CONFIG, tmp_path)


def test_a_stage_killed_as_it_began_is_ours(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".in_progress.0123.tmp").write_text("half of the mark")
    check_run_dir([stage("a")], CONFIG, tmp_path)
    assert run([stage("a")], CONFIG, tmp_path) == ["a"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".hidden").write_text("somebody's")
    with pytest.raises(UserError, match="was not written by stage 'b'"):
        check_run_dir([stage("b")], CONFIG, tmp_path)


def reading(path: Path, exchange: str | None = None) -> Stage:
    """A stage that copies a file of a person, and keeps what it read first; the file may be exchanged meanwhile."""

    def work(context: Context) -> Result:
        half, out = context.folder / "half.txt", context.folder / "out.txt"
        if not half.exists():
            half.write_text(path.read_text())
        if exchange is not None:
            path.write_text(exchange)
        out.write_text(half.read_text() + path.read_text())
        return Result([out], {"summary": {}})

    return Stage("reads", (), lambda config: {}, work, lambda config: {"data": sha256_of(path)})


def test_an_input_that_is_exchanged_while_the_stage_runs_makes_no_result(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("old")
    with pytest.raises(UserError, match="input 'data' of stage 'reads' changed while the stage was running"):
        run([reading(path, "new")], CONFIG, tmp_path / "run")
    assert manifests.load(tmp_path / "run" / "reads") is None
    path.write_text("old")  # as it was: and yet nothing that was made of both is used
    assert run([reading(path)], CONFIG, tmp_path / "run") == ["reads"]
    assert (tmp_path / "run" / "reads" / "out.txt").read_text() == "oldold"


def test_a_flipped_bit_in_an_earlier_stage_is_noticed_by_the_one_that_reads_it(tmp_path: Path) -> None:
    run(ROAD[:1], CONFIG, tmp_path)
    out = tmp_path / "a" / "out.txt"
    good = out.read_bytes()
    out.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    for _ in range(2):
        with pytest.raises(UserError, match=r"a/out\.txt has another SHA-256 .*, by .* stage 'a'"):
            run(ROAD[:2], CONFIG, tmp_path)
    assert not (tmp_path / "b").exists(), "nothing was begun"
    out.write_bytes(good)
    assert run(ROAD[:2], CONFIG, tmp_path) == ["b"]


def test_an_earlier_stage_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    run(ROAD[:1], CONFIG, tmp_path)

    def work(context: Context) -> Result:
        (context.of("a") / "out.txt").write_text("[5678]")
        (context.folder / "out.txt").write_text("x")
        return Result([context.folder / "out.txt"], {"summary": {}})

    with pytest.raises(UserError, match=r"a/out\.txt has another SHA-256"):
        run([Stage("b", ("a",), lambda config: {}, work)], CONFIG, tmp_path)
    assert manifests.load(tmp_path / "b") is None
