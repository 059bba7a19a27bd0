"""The report: every section is there, hostile text is inert, the same run gives the same page."""

import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ilm_ray.base.errors import UserError
from ilm_ray.config import load_config, save_config
from ilm_ray.config.road import STAGES
from ilm_ray.report.html import page
from ilm_ray.report.report import write_report
from ilm_ray.report.sections.text import funnel_steps
from ilm_ray.report.sections.training import planned_rates
from ilm_ray.run.manifest import Manifest, commit

SECTIONS = [
    "text",
    "code",
    "decontamination",
    "tokens",
    "long_text",
    "pretrain",
    "sft",
    "reward",
    "ppo",
    "online",
    "evaluation",
    "benchmarks",
    "timings",
    "record",
]
LOADING = {"src", "href", "srcset", "data", "action", "formaction", "poster", "background", "xlink:href", "style"}


class Elements(HTMLParser):
    """The elements of a page as a browser reads them: tags, attributes, and all text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_stage_has_its_section_and_its_figures(fake_run: Path) -> None:
    elements = Elements(write_report(fake_run).read_text(encoding="utf-8"))
    assert elements.ids == SECTIONS
    assert elements.tags.count("svg") >= 20
    for words in ("nano-demo", "preset nano", "12 of 12 stages", "short_context", "conditional", "near_duplicate"):
        assert words in elements.text
    assert "NaN" not in elements.text and "nan" not in elements.text.replace("nano", "")
    assert "weight 1: 1.50, weight 3: 4.50" in elements.text
    assert "How many apples are left?" in elements.text
    assert "Calibration on held-out pairs" in elements.text and "correlation of score and length" in elements.text
    assert "nobody asked for it" in elements.text and "length above 31" in elements.text
    assert "1 unreadable line" in elements.text  # the log whose last line a crash has cut


def test_what_disturbed_pre_training_is_told(fake_run: Path) -> None:
    shown = Elements(write_report(fake_run).read_text(encoding="utf-8")).text
    for words in ("its batch is left out", "worker killed at step 77", "step 120: it is gone", "25 % of that step"):
        assert words in shown


def test_the_planned_rate_is_drawn_beside_the_logged_one(fake_run: Path) -> None:
    assert "planned" not in write_report(fake_run).read_text(encoding="utf-8")  # the settings are not in the folder
    (fake_run / "pretrain" / "manifest.json").unlink()
    save_config(config := load_config("nano"), fake_run / "config.yaml")
    assert "planned: from" in write_report(fake_run).read_text(encoding="utf-8")
    drawn, phases = dict(planned_rates(config.pretrain, config.training)), config.pretrain.phases
    assert {1, 420, 421, 510, 511, 570} <= drawn.keys() and max(drawn) == 570
    peaks = [max(rate for step, rate in drawn.items() if a < step <= b) for a, b in ((0, 420), (420, 510), (510, 570))]
    assert peaks == pytest.approx([phase.max_lr for phase in phases], rel=0.05)
    assert drawn[570] == pytest.approx(0.1 * 1.5e-4)


def test_parts_of_the_reward_are_shown_with_what_failed(fake_run: Path) -> None:
    text = Elements(write_report(fake_run).read_text(encoding="utf-8")).text
    assert "Parts of the reward, before their weights" in text and "mine/covers" in text
    assert "Answers without a score, on which nothing was trained: 1." in text


def test_hostile_text_is_inert(fake_run: Path) -> None:
    source = write_report(fake_run).read_text(encoding="utf-8")  # strict: a lone surrogate would have failed
    elements = Elements(source)
    assert not {"script", "img", "a", "iframe", "object", "embed", "link", "base", "form"} & set(elements.tags)
    assert not [(n, v) for n, v in elements.attributes if n in LOADING or n.startswith("on")]
    assert "<script>alert('owned')</script>" in elements.text and "</style>" in elements.text  # shown, as text
    assert "一段中文" in elements.text
    assert "javascript:alert(1)" in elements.text
    assert not any(c in source for c in "\x00\x1b\u202e")
    assert source.count("<style>") == source.count("</style>") == 1
    assert "default-src 'none'" in source


def test_hostile_text_is_inert_for_another_parser(fake_run: Path) -> None:
    html = pytest.importorskip("lxml.html")
    tree = html.fromstring(write_report(fake_run).read_bytes())
    assert tree.xpath("//script | //img | //a | //*[@href] | //*[@src] | //*[@onerror] | //*[@onload]") == []
    assert len(tree.xpath("//section")) == len(SECTIONS)


@pytest.mark.parametrize("character", ["\x00", "\x85", "\ud800", "\udfff", "\ufffe", "\u202e", "\u2066"])
def test_what_cannot_be_shown_is_replaced(character: str) -> None:
    assert page.text(f"a{character}b") == "a\ufffdb"


def test_only_markup_made_here_passes_unescaped() -> None:
    assert page.text(page.text("<")) == "&lt;"
    assert "<b>" not in page.table(["<b>"], [["<b>", 1]], "<b>")
    assert "<b>" not in page.figures({"<b>": "<b>", "g": {"<b>": {"<b>": "<b>"}}})


def test_a_run_without_any_stage_still_has_a_report(tmp_path: Path) -> None:
    elements = Elements(write_report(tmp_path).read_text(encoding="utf-8"))
    assert elements.ids == SECTIONS
    assert "0 of 12 stages finished" in elements.text


def test_a_run_from_a_brought_model_shows_its_own_road(tmp_path: Path) -> None:
    """Not the stages that it leaves out; the model, and what is off."""
    config = load_config("nano", None, ["base=hf://me/<mine>", "from=reward", "input=null"])
    save_config(config, tmp_path / "config.yaml")
    summary = {"setting": "base", "from": "hf://me/<mine>", "architecture": "Qwen2ForCausalLM", "parameters": 7}
    summary |= {"context": 512, "vocabulary": 64, "added_tokens": {"<|reward|>": 60}}
    (tmp_path / "base" / "model").mkdir(parents=True)
    commit(tmp_path / "base" / "model", Manifest("base/model", {}, {}, metrics={"summary": summary}))
    (tmp_path / "ppo").mkdir()
    commit(tmp_path / "ppo", Manifest("ppo", {}, {}, metrics={"summary": {}, "off": {"ppo.x": "no pre-training data"}}))
    (tmp_path / "ppo" / "metrics.jsonl").write_text('{"iteration": 0, "reward": 1.0}\n')
    elements = Elements(write_report(tmp_path).read_text(encoding="utf-8"))
    assert {"base", "reward", "ppo"} < set(elements.ids)
    assert not {"text", "pretrain", "sft", "long_text", "code"} & set(elements.ids)
    assert "2 of 6 stages finished" in elements.text
    assert "hf://me/<mine>" in elements.text and "<|reward|> (60)" in elements.text
    assert "off: no pre-training data (ppo.x)" in elements.text


@pytest.mark.parametrize("stage", STAGES)
def test_any_stage_may_be_missing(fake_run: Path, stage: str) -> None:
    shutil.rmtree(fake_run / stage)
    elements = Elements(write_report(fake_run).read_text(encoding="utf-8"))
    assert elements.ids == SECTIONS
    assert "11 of 12 stages finished" in elements.text


def test_the_same_run_gives_the_same_bytes(fake_run: Path) -> None:
    first = write_report(fake_run).read_bytes()
    assert write_report(fake_run).read_bytes() == first
    assert [p.name for p in fake_run.iterdir() if p.name.endswith(".tmp")] == []


def test_damaged_input_is_named(fake_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        write_report(tmp_path / "nowhere")
    (fake_run / "sft" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"sft/manifest\.json is no manifest"):
        write_report(fake_run)


def test_funnel_adds_up() -> None:
    rows = [
        {"step": "clean", "rule": "kept", "documents": 6, "bytes": 60},
        {"step": "format", "rule": "kept", "documents": 8, "bytes": 80},
        {"step": "format", "rule": "too_short", "documents": 2, "bytes": 5},
        {"step": "clean", "rule": "symbols", "documents": 2, "bytes": 20},
    ]
    steps = funnel_steps(rows, "documents")
    assert [name for name, _, _ in steps] == ["format", "clean"]
    assert steps[0][1] == sum(r["documents"] for r in rows if r["step"] == "format")
    assert steps[0][2] == steps[1][1]  # what a step leaves is what the next one gets


@pytest.mark.process
def test_the_job_prints_one_json_line_and_refuses_with_2(fake_run: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, dict[str, str], str]:
        command = [sys.executable, str(Path(__file__).parents[2] / "jobs" / "report.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": ""})
        return done.returncode, json.loads(done.stdout), done.stderr

    code, line, _ = run("--run-dir", str(fake_run))
    assert code == 0 and line["status"] == "done" and Path(line["report"]).is_file()
    assert list(Path(line["tensorboard"]).rglob("events.out.tfevents.*"))
    code, line, error = run("--run-dir", str(tmp_path / "nowhere"))
    assert code == 2 and line["status"] == "refused" and "Traceback" not in error
    code, line, _ = run()
    assert code == 2 and "--run-dir" in line["error"]


@pytest.mark.process
def test_a_browser_shows_all_sections_and_runs_nothing(fake_run: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    report, picture = write_report(fake_run), tmp_path / "report.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update"]  # fmt: skip
    for position, action in enumerate((["--dump-dom"], [f"--screenshot={picture}", "--window-size=1280,4000"])):
        profile = f"--user-data-dir={tmp_path / f'profile{position}'}"
        done = subprocess.run([browser, *flags, profile, *action, report.as_uri()], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        if not position:
            assert Elements(done.stdout.decode()).ids == SECTIONS
    assert picture.stat().st_size > 50_000
