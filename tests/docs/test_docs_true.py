"""What the pages name is there: jobs and their flags, settings, files; the changes that they show fit the code."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config
from ilm_ray.config.named_data import needed
from ilm_ray.config.road import STAGES
from ilm_ray.config.thresholds import RULES
from ilm_ray.data.decontamination.items import FORMS
from ilm_ray.run.gpus import Gpu
from ilm_ray.training.plan.fits import Machine, require_fit

REPOSITORY = Path(__file__).parents[2]
HOW_TO = REPOSITORY / "docs" / "how_to.md"
ONE_GPU = REPOSITORY / "docs" / "one_gpu.md"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "cluster" / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TOP = ("ilm_ray", "actors", "jobs", "cluster", "tests", "docs", "benchmarks", ".ci")
SOURCES = (".py", ".md", ".sh", ".yml", ".yaml", ".toml", ".lock")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of a kind; of commands ("") also those that are indented by four."""
    contents, inside = list[str](), None
    for line in page.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith("```"):
            inside = line[3:].strip() if inside is None else None
            contents += [""] if inside == kind else []
        elif inside == kind or (inside is None and kind == "" and line.startswith("    ")):
            contents = [*contents, ""] if inside is None else contents
            contents[-1] += line
    return contents


def commands(page: Path) -> Iterator[list[str]]:
    """The command lines of a page, as a shell would cut them."""
    for block in blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            if re.search(r"\bpython |^ *make ", line):
                yield shlex.split(line, comments=True)


def module_file(name: str) -> Path:
    """The file that `python -m name` runs."""
    path = REPOSITORY / name.replace(".", "/")
    file = path.with_suffix(".py")  # beside which a folder of the same name may hold something else
    return file if file.is_file() else path / "__main__.py"


def started(words: list[str]) -> tuple[Path, list[str]] | None:
    """The script or module that a command starts, and its arguments."""
    for at, word in enumerate(words[:-1]):
        if word.endswith("python"):
            if words[at + 1] != "-m":
                return REPOSITORY / words[at + 1], words[at + 2 :]
            if words[at + 2].split(".")[0] in TOP:
                return module_file(words[at + 2]), words[at + 3 :]
    return None


@each_page
def test_jobs_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"python (?:-m )?((?:jobs|docs|cluster|benchmarks)[/.][\w./]+)", page.read_text(encoding="utf-8")
    )
    for name in named:
        path = REPOSITORY / name if name.endswith(".py") else module_file(name.rstrip("."))
        assert path.is_file(), name


@each_page
def test_commands_have_the_flags_that_are_given(page: Path) -> None:
    for words in commands(page):
        if words[0] == "make":
            targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
            assert words[1] in targets, words
        elif (start := started(words)) is not None:
            script, arguments = start
            assert script.is_file(), words
            given = [word for word in arguments if word.startswith("--")]
            known = script.read_text(encoding="utf-8")
            known += (REPOSITORY / "jobs" / "frame" / "command.py").read_text(encoding="utf-8")
            if 'f"--{' in known:  # made in a loop over names, which a module of ours may hold
                for module in re.findall(r"^ *from (ilm_ray[\w.]+) import", known, re.MULTILINE):
                    path = REPOSITORY / (module.replace(".", "/") + ".py")
                    known += path.read_text(encoding="utf-8") if path.is_file() else ""
                known = re.sub(r'"([a-z_]+)"', r'"--\1"', known)
            assert not [flag for flag in given if f'"{flag}"' not in known], words


def test_settings_of_the_how_tos_are_accepted() -> None:
    seen = 0
    for words in commands(HOW_TO):
        start = started(words)
        if start is None:
            continue
        settings = [word for word in start[1] if re.match(r"[a-z][\w.*]*=", word)]
        load_config("nano", None, settings)
        seen += len(settings)
    assert seen > 5


def test_configuration_files_of_the_how_tos_are_accepted(tmp_path: Path) -> None:
    files = blocks(HOW_TO, "yaml")
    assert len(files) == 2
    for text in files:
        (tmp_path / "own.yaml").write_text(text)
        config = load_config("nano", tmp_path / "own.yaml")
        assert config.reward.data == "/data/preferences.jsonl"
    assert set(config.reward.system_prompts) == {"helpful", "poetry"}


def test_the_walk_through_one_gpu_is_accepted(tmp_path: Path) -> None:
    """Its files over the preset on the smallest machine that it names; the settings of its commands."""
    own, short = blocks(ONE_GPU, "yaml")
    (tmp_path / "mine.yaml").write_text(own + short)
    config = load_config("mini", tmp_path / "mine.yaml")
    assert not needed(config, STAGES) and config.pretrain.phases[0].steps == 2000
    require_fit(config, Machine(16, 1, 64.0, Gpu("NVIDIA GeForce RTX 4090", int(23.5 * 2**30), (8, 9))), STAGES)
    for words in commands(ONE_GPU):
        found = started(words)
        load_config("mini", None, [word for word in (found[1] if found else []) if re.match(r"[a-z][\w.]*=", word)])


@each_page
def test_settings_that_are_named_exist(page: Path) -> None:
    for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
        for key in re.findall(r"(?:^| )'?([a-z]\w*(?:\.[\w*]+)+)=", code):
            try:
                load_config("nano", None, [f"{key}=1"])
            except UserError as error:
                assert "unknown setting" not in str(error), f"{key}: {error}"


def expanded(word: str) -> list[str]:
    """`a/{b,c}.py` as a shell has it."""
    parts = re.split(r"\{([^{}]*)\}", word)
    return [
        "".join(chosen) for chosen in itertools.product(*(p.split(",") if n % 2 else [p] for n, p in enumerate(parts)))
    ]


def named_paths(page: Path) -> Iterator[str]:
    """Words in backticks that look like files or folders of the repository."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`]+)`", text):
        for word in itertools.chain.from_iterable(map(expanded, re.sub(r", +", ",", code).split())):
            if re.fullmatch(r"[\w.*-]+(/[\w.*-]*)+", word) and (word.split("/")[0] in TOP or word.endswith(SOURCES)):
                yield word


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    missing = [word for word in named_paths(page) if not any(REPOSITORY.glob(word.rstrip("/")))]
    assert not missing


def test_the_search_for_files_finds_some() -> None:
    paths = {word for page in PAGES for word in named_paths(page)}
    assert len(paths) > 100 and {"docs/status.md", "cluster/grafana", "ilm_ray/training/plan/planner.py"} <= paths


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the how-tos' changes applied."""
    folder = tmp_path_factory.mktemp("changed")
    for name in ("ilm_ray",):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for number, change in enumerate(blocks(HOW_TO, "diff")):
        done = subprocess.run(["git", "apply", "--verbose"], cwd=folder, input=change, text=True, capture_output=True)
        assert done.returncode == 0, f"change {number} of {HOW_TO.name} does not fit the code any more: {done.stderr}"
    return folder


def run_changed(folder: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.process
def test_the_new_filter_of_the_how_to_is_asked(tmp_path: Path) -> None:
    """The page's function and its first command as they stand, on texts at both sides of the bound."""
    (rule,) = (block for block in blocks(HOW_TO, "python") if "def lines_per_paragraph" in block)
    assert len(rule.splitlines()) <= 10
    (tmp_path / "my_rules.py").write_text(rule)
    name = "docs/examples/filter_texts.py"
    words = next(words for words in commands(HOW_TO) if name in words and any("own_rules" in word for word in words))
    off = [f"text.rules.en.{rule}=[null, null]" for rule in RULES["en"] if rule.startswith(("top_", "duplicate_"))]
    line = "The miller opens the gate every morning and lets the water run over the wooden wheel, as they all have done"
    for lines, fate in ((30, ["kept", "", ""]), (60, ["lines_per_paragraph", "59.0", "40.0"])):
        (tmp_path / "page.txt").write_text("\n".join(f"{line} {number}." for number in range(lines)))
        files = {"FILE": str(tmp_path / "page.txt")}
        given = [files.get(word, word.replace("my_rules.py", str(tmp_path / "my_rules.py"))) for word in words[1:]]
        assert run_changed(REPOSITORY, *given, *off).split("\t")[:3] == fate


@pytest.mark.process
def test_the_new_benchmark_of_the_how_to_is_read_and_listed(changed: Path) -> None:
    (changed / "riddles.jsonl").write_text('{"riddle": "What has teeth and cannot bite?", "reply": "A comb has."}\n')
    check = (
        "from pathlib import Path; from ilm_ray.data.decontamination.items import read_items; "
        "from ilm_ray.evaluation.suites import suite; print(read_items(Path('riddles.jsonl'), 'r')[0].question); "
        "print(*('Riddles' in {b.name for b in suite(name)} for name in ('chat', 'paper', 'base')))"
    )
    lines = run_changed(changed, "-c", check).splitlines()
    assert lines == ["What has teeth and cannot bite?", "True True False"]
    assert not any("riddle" in form.question for form in FORMS), "the how-to's example must be new to the code"
