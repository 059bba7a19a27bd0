"""A job that runs stages into a run folder.

A command without `--preset` takes up the settings that the run folder remembers (`<run-dir>/config.yaml`); one with it
begins from the preset. A failure leaves `<run-dir>/error.txt`. Where settings bring a model from outside, its stages
and that of its tokenizer run first.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from ilm_ray.base.errors import UserError
from ilm_ray.config import Config, save_config
from ilm_ray.config.fit import fewer_line
from ilm_ray.config.named_data import NO_PRETRAINING, check_named, off_line, steps_off
from ilm_ray.config.road import STARTS, brings_tokenizer, check_start, in_effect, stages_on
from ilm_ray.config.run_folder import NAME, Chosen, choose_settings, remembered
from ilm_ray.config.schema import Start
from ilm_ray.report.tracker import Tracker, require_tracker
from ilm_ray.run.journal import Journal
from ilm_ray.run.lock import only_driver, require_free
from ilm_ray.run.manifest import Manifest
from ilm_ray.run.stage import Stage, check_run_dir, run_stage
from ilm_ray.training.plan.fits import require_fit
from jobs.frame.cluster import LocalRay, check_gpus_work, machine
from jobs.frame.command import Parser, one_line, run_command


def run_job(job: str, stages: Sequence[Stage], argv: Sequence[str] | None = None) -> NoReturn:
    """Parse the command line, run `stages` in order, print the JSON line, exit."""

    def work(summary: dict[str, Any]) -> None:
        summary["run_dir"] = None
        reads = dict.fromkeys(
            ["seed", "base", "start", *(name for stage in stages for name in stage.reads), "ray", "track"]
        )
        about = f"Stages: {', '.join(stage.name for stage in stages) or 'base/...'}."
        arguments = Parser(prog=f"jobs/{job}.py", description=about, reads=tuple(reads)).parse(argv)
        chosen = choose_settings(arguments.preset, arguments.config, arguments.settings, arguments.run_dir)
        if (start := _start_of(stages, arguments.settings, chosen)) is not None:
            print(f"{job}: from={start}", file=sys.stderr)
            chosen = chosen._replace(config=chosen.config.model_copy(update={"start": start}))
        summary["run_dir"] = str(chosen.run_dir)
        if chosen.note is not None:
            print(f"{job}: {chosen.note}", file=sys.stderr)
        check_start(chosen.config)
        done = _run_stages(job, _on_road(stages, chosen.config), chosen.config, chosen.run_dir, chosen.note)
        figures = {name: manifest.metrics["summary"] for name, manifest in done.items()}
        if len(done) > 1:
            print_stage_table({name: (m.seconds, m.peak_memory_mb) for name, m in done.items()})
        summary |= {"report": str(chosen.run_dir / "report.html")}
        summary |= figures[stages[0].name] if len(stages) == 1 else figures

    sys.exit(run_command(job, work, evidence=True))


def _start_of(stages: Sequence[Stage], words: Sequence[str], chosen: Chosen) -> Start | None:
    """The start that a job of one training takes where its words name `base` and none: `jobs/sft.py base=M` trains M.

    In a run that begins with the same base it is that run's: `jobs/reward.py base=M` then goes on from its SFT.
    """
    named = {word.partition("=")[0] for word in words}
    if "base" not in named or not named.isdisjoint({"from", "start"}) or len(stages) != 1:
        return None
    with contextlib.suppress(UserError):
        known = remembered(chosen.run_dir / NAME)
        if known.base == chosen.config.base and known.start is not None:
            return known.start
    return next((start for start in STARTS if start == stages[0].name), None)


def _on_road(stages: Sequence[Stage], config: Config) -> list[Stage]:
    """Those of a pipeline's stages that this run has, behind those that bring its models and its tokenizer.

    Raises UserError where the one stage of a job is not on the road.
    """
    from jobs import base, tokenizer

    on = stages_on(config)
    if len(stages) == 1 and stages[0].name in (*STARTS, "online") and stages[0].name not in on:
        raise UserError(
            f"stage '{stages[0].name}' is no part of this run, which has {', '.join(on)}; see from=, base= and "
            "ppo.reward_model="
        )
    own = [stage for stage in stages if len(stages) == 1 or stage.name in on]
    needed = {name for stage in own for name in stage.needed(config)}
    if brings_tokenizer(config) is not None and "tokenizer" in needed - {stage.name for stage in own}:
        own = [tokenizer.STAGE, *own]
    brings = [stage for stage in base.stages(config) if stage.name in needed or not stages]
    if not own and not brings:
        raise UserError("no setting names a model from outside; set base to its folder or to hf://owner/name")
    return [*brings, *own]


def _run_stages(
    job: str, stages: Sequence[Stage], config: Config, run_dir: Path, note: str | None
) -> dict[str, Manifest]:
    asked, config = config, in_effect(config)
    check_named(config, [stage.name for stage in stages])
    for stage in stages:  # outside inputs are looked at before anything is written
        stage.sources(config)
    require_tracker(config.track)
    require_free(run_dir)
    check_run_dir(stages, config, run_dir)
    with LocalRay(config), contextlib.ExitStack() as held:
        from actors.warden import Wardens  # not before Ray's environment is set
        from ilm_ray.run.metrics import watched_disk

        fit = config
        if any(stage.trains for stage in stages):
            fit = require_fit(config, machine(), [stage.name for stage in stages])
            check_gpus_work()
        driver = held.enter_context(_open_run_dir(run_dir, asked, job))
        journal = Journal(run_dir / "journal.jsonl")
        journal.event("start", job=job, preset=config.preset, driver=driver, **({"settings": note} if note else {}))
        if (fewer := fewer_line(config, fit)) is not None:
            print(f"{job}: {fewer}", file=sys.stderr)
            journal.event("note", why=fewer)
        if off := {setting: why for setting, why in steps_off(config).items() if why == NO_PRETRAINING}:
            print(f"{job}: {off_line(off)}", file=sys.stderr)
            journal.event("note", why=off_line(off))
        done = {}
        try:
            say = partial(journal.event, "note")
            with (
                Wardens(config.ray.hang_s, lambda line: say(why=line)),
                Tracker(config.track, run_dir, config.model_dump(mode="json"), lambda line: say(why=line)),
            ):
                for stage in stages:
                    with watched_disk(run_dir, stage.name):
                        done[stage.name] = run_stage(stage, fit, run_dir, journal)
        finally:  # a run that failed half-way is when one wants to look
            _write_reports(run_dir)
    return done


def print_stage_table(rows: dict[str, tuple[float, float]]) -> None:
    """Stage, wall seconds, peak memory: one line each on stderr."""
    print(f"{'stage':<16}{'wall seconds':>14}{'peak MiB':>12}", file=sys.stderr)
    for name, (seconds, peak) in rows.items():
        print(f"{name:<16}{seconds:>14.1f}{peak:>12.0f}", file=sys.stderr)
    total, highest = sum(s for s, _ in rows.values()), max(p for _, p in rows.values())
    print(f"{'all':<16}{total:>14.1f}{highest:>12.0f}", file=sys.stderr)


@contextlib.contextmanager
def _open_run_dir(run_dir: Path, config: Config, job: str) -> Iterator[str]:
    """Hold the run folder for this driver, which it gives in words; the folder remembers `config`."""
    with contextlib.ExitStack() as held:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            driver = held.enter_context(only_driver(run_dir, f"jobs/{job}.py"))
            save_config(config, run_dir / NAME)
            (run_dir / "error.txt").unlink(missing_ok=True)  # that of an earlier attempt
        except OSError as error:
            raise UserError(
                f"cannot write to --run-dir {run_dir}: {error.strerror or error}; choose a folder you may write to"
            ) from None
        yield str(driver)


def _write_reports(run_dir: Path) -> None:
    """A failing report never changes the job's exit code."""
    try:
        from ilm_ray.report.report import write_report  # matplotlib: not before there is something to draw
        from ilm_ray.report.tensorboard import write_tensorboard

        write_report(run_dir)
        write_tensorboard(run_dir)
    except Exception as error:  # the disk may be full, which the journal would have to be told on
        print(f"the report was not written: {one_line(error)}", file=sys.stderr)
