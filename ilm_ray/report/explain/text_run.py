"""The decisions of a run's text stage, read back from its files: rules in order, their bounds, documents.

Nothing is computed again: all scores lie in the rows. `threshold.py` moves a bound, `document.py` tells the fate of a
document, and the report (`report/sections/text.py`) draws both.
"""

import difflib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
import zstandard

from ilm_ray.base.errors import UserError
from ilm_ray.data.documents.document import Document, read_documents
from ilm_ray.data.documents.paths import CLEANED, FINAL, SOURCES, STEPS, STEPS_OF, model_path, outputs, read_sources
from ilm_ray.data.documents.sources import ROW_BITS, Source
from ilm_ray.data.web.classifiers.card import FILE as CARD
from ilm_ray.data.web.classifiers.card import read_card
from ilm_ray.run import manifest as manifests

Settings = dict[str, Any]  # the `text` section of a run's configuration
Bounds = tuple[float | None, float | None]  # lowest and highest value that passes; None: no bound on that side

NEAR = "near_duplicate"
OTHER_LANGUAGES = "*"
# The rules outside Clean in the order in which they are asked, and the column that holds what each looks at. Of those
# without a column the rows keep no more than the verdict.
_COLUMNS: dict[str, dict[str, str | None]] = {
    "format": {
        "max_html_bytes": None,
        "extract_timeout": None,
        "extract_memory": None,
        "extract_crash": None,
        "no_text": None,
        "min_chars": "extracted_chars",
        "language": "language",
    },
    "dedup": {"exact_duplicate": None, NEAR: "similarity"},
    "safe": {
        "blocked_domain": None,
        "blocked_word": "blocked_words",
        "toxicity": "toxicity_score",
        "pornography": "pornography_score",
    },
    "quality": {"advertisement": "advertisement_score", "fluency": "fluency_score"},
}


@dataclass(frozen=True)
class Rule:
    """`column` is the rule's value in a row; None where the rows keep the verdict alone."""

    name: str
    step: str
    column: str | None


@dataclass(frozen=True)
class BoundedRule:
    """A rule with the bounds that hold for a document of one language and source."""

    rule: Rule
    low: float | None
    high: float | None
    languages: tuple[str, ...] | None = None  # of the rule `language`: what passes; None: every language

    def passes(self, document: Document) -> bool | None:
        """Whether the document passes this rule; None where it lacks the score that the rule reads."""
        value = document.column(self.rule.column) if self.rule.column else None
        if self.rule.name == "language":
            return self.languages is None or value in self.languages
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        if self.low is not None and value < self.low:
            return False
        if self.high is None:
            return True
        return value < self.high if self.rule.name == NEAR else value <= self.high  # "at the threshold or above" falls


@dataclass(frozen=True)
class TextRun:
    """The text stage of a run: `folder` is `<run>/text`."""

    folder: Path
    settings: Settings
    _rules: dict[tuple[str, str, str], list[BoundedRule]] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def sources(self) -> dict[int, Source]:
        """The input files by the common part of their ids."""
        sources = read_sources(self.folder) if (self.folder / SOURCES).is_file() else []
        return {source.key: source for source in sources}

    def rules(self, step: str, document: Document) -> list[BoundedRule]:
        """The rules that `step` asks of a document, in order, with the bounds for its language and source."""
        key = (step, document.source, document.language)
        if key not in self._rules:
            settings = of_source(self.settings, document.source)
            languages = settings.get("languages")
            self._rules[key] = [
                BoundedRule(
                    rule,
                    *bounds(settings, rule.name, document.language),
                    None if languages is None else tuple(languages),
                )
                for rule in rules_of(settings, step, document.language)
            ]
        return self._rules[key]

    def files(self) -> dict[str, list[Path]]:
        """The file of each document, once, as far as the run has come, in the order of the input files.

        "cleaned/kept" are those whose duplicates are not yet dropped; all others have an outcome.
        """
        files = {
            f"{made_by}/{outcome}": sorted((self.folder / made_by).glob(f"{outcome}-*.jsonl.zst"))
            for made_by in (CLEANED, FINAL)
            for outcome in ("kept", "removed")
        }
        done = {path.name for path in files[f"{FINAL}/kept"]}
        waiting = f"{CLEANED}/kept"
        return files | {waiting: [path for path in files[waiting] if path.name not in done]}


def open_run(run_dir: Path) -> TextRun:
    """Raises UserError where the folder holds no text stage."""
    folder = run_dir / "text"
    if not run_dir.is_dir():
        raise UserError(f"run folder {run_dir} does not exist; give --run-dir the folder of a run")
    settings = _settings(run_dir)
    if settings is None or not any(folder.glob(f"{CLEANED}/*-*.jsonl.zst")):
        raise UserError(f"{run_dir} holds no documents of a text stage; run jobs/web_text.py --run-dir {run_dir} first")
    return TextRun(folder, settings)


def text_run(run_dir: Path) -> TextRun:
    """As `open_run`, for a page that shows a partial run too: no settings means no bounds."""
    return TextRun(run_dir / "text", _settings(run_dir) or {})


def bounds(settings: Settings, rule: str, language: str) -> Bounds:
    """(lowest, highest) value with which a document of `language` passes `rule`."""
    table = _table(settings, language)
    if rule in table:
        low, high = table[rule]
        return low, high
    if rule == "min_chars":
        return settings.get("min_chars"), None
    if rule == "max_html_bytes":
        return None, settings.get("max_html_bytes")
    if rule == NEAR:
        return None, settings.get("threshold")
    if rule == "blocked_word":
        return None, 0
    return settings.get("classifiers", {}).get(rule, {}).get("threshold"), None


def rules_of(settings: Settings, step: str, language: str) -> list[Rule]:
    """The rules of a step for one language, in the order in which they are asked."""
    if step == "clean":
        return [Rule(name, step, name) for name in _table(settings, language)]
    return [Rule(name, step, column) for name, column in _COLUMNS[step].items()]


def rule_named(settings: Settings, name: str) -> Rule:
    """Raises UserError that names the nearest right rule where there is none of this name."""
    languages = [*settings.get("rules", {}), OTHER_LANGUAGES]
    known = {r.name: r for step in STEPS for language in languages for r in rules_of(settings, step, language)}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
        hint = f"did you mean '{near[0]}'?" if near else f"rules are {', '.join(known)}"
        raise UserError(f"rule '{name}' does not exist in this run; {hint}")
    return known[name]


def of_source(settings: Settings, source: str) -> Settings:
    """The settings of one source ("" is the web): those of `text`, with the source's own in their place."""
    changed = settings.get("sources", {}).get(source, {}).get("settings", {}) if source else {}
    return _merged(settings, changed)


def read(path: Path) -> Iterator[Document]:
    """Documents of one file. Raises UserError where it is damaged."""
    try:
        yield from read_documents(path)
    except (OSError, ValueError, zstandard.ZstdError) as error:
        stage = path.parent.parent
        raise UserError(f"{path} is damaged ({error}); delete {stage} and run its job again") from None


def source_of(run: TextRun, document: int) -> Source | None:
    """The input file of a document; None where it is of another run."""
    return run.sources.get(document >> ROW_BITS)


def find_document(run: TextRun, number: int) -> tuple[Document, Path] | None:
    """The document of this id as the run left it, and its file; only the files of its input file are read."""
    source = source_of(run, number)
    if source is None:
        return None
    for made_by in (FINAL, CLEANED):
        for path in outputs(run.folder, made_by, source.index)[:2]:
            for document in read(path) if path.is_file() else ():
                if document.id == number:
                    return document, path
    return None


def steps_reached(document: Document, path: Path) -> tuple[str, ...]:
    """The steps that have judged a document which lies in the file `path`."""
    if document.drop_step is not None:
        return STEPS[: STEPS.index(document.drop_step) + 1]
    return STEPS if path.parent.name == FINAL else STEPS_OF[CLEANED]


def fell_in(document: Document, step: str) -> str | None:
    """The rule of `step` that removed the document; None where the step kept it."""
    return document.drop_rule if document.drop_step == step else None


def _table(settings: Settings, language: str) -> dict[str, Any]:
    """The rules of Clean for one language."""
    tables = settings.get("rules", {})
    table: dict[str, Any] = tables.get(language) or tables.get(OTHER_LANGUAGES) or {}
    return table


def _settings(run_dir: Path) -> Settings | None:
    """The settings of the stage, with the rules in their order; those of config.yaml where it is unfinished."""
    if manifest := manifests.load(run_dir / "text"):
        ran: Settings = manifest.settings["text"]
        order = manifest.settings.get("rule_order", {}).get("", {})  # a manifest's keys are sorted
        rules = {code: {name: table[name] for name in order.get(code, table)} for code, table in ran["rules"].items()}
        return _with_thresholds(ran | {"rules": rules}, run_dir / "text")
    path = run_dir / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{path} is not valid YAML ({line}); run the job again to have it rewritten") from None
    found = config.get("text") if isinstance(config, dict) else None
    return None if found is None else _with_thresholds(found, run_dir / "text")


def _with_thresholds(settings: Settings, folder: Path) -> Settings:
    """Fills in the threshold of a classifier's card where none is set."""
    classifiers = {
        name: each | {"threshold": read_card(model_path(folder, name))["threshold"]}
        for name, each in settings.get("classifiers", {}).items()
        if each.get("threshold") is None and (model_path(folder, name) / CARD).is_file()
    }
    return settings | {"classifiers": settings.get("classifiers", {}) | classifiers}


def _merged(base: Settings, changed: Settings) -> Settings:
    inner = {
        k: _merged(base[k], v) for k, v in changed.items() if isinstance(v, dict) and isinstance(base.get(k), dict)
    }
    return base | changed | inner
