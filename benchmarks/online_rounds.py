"""Three rounds of COOL RLHF with patched reward models and simulated people, over seeds (report section 4.2.2).

    python benchmarks/online_rounds.py [--seeds 3] [--rounds 3] [--out DIR]

The toy language and the settings of `reward_hacking.py`. The first reward model is trained on people's pairs, which
want answers on the topic, and on others that love a phrase and length. After each round every comparison of its slow
path is labelled by the rule that people follow (the answer with the larger share of sentences on the topic, else a
tie), and patterns of the fast path become patches. Printed for each seed and round, of PPO's late answers: share of
sentences on the topic, share of answers with the phrase, words, and the patterns found; then means over seeds with 95%
intervals (Student's t), and the change from the first round to the last within seeds. DIR/rounds.html has the picture.
Claims: from the first round to the last phrase and words fall, each by more than its interval. Answers about anything
are on the topic one time in twenty; models of this size hardly learn more. Five minutes a seed on two cores.
"""

import argparse
import json
import math
import re
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student

from benchmarks.reward_hacking import NOUNS, PHRASE, make_run
from ilm_ray.alignment.online.hacking import Answer, edges
from ilm_ray.alignment.online.patterns import Trait, words
from ilm_ray.alignment.online.rollouts import read_answers
from ilm_ray.base.jsonl import read_jsonl, write_jsonl
from ilm_ray.config import Config, load_config
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.report.charts.basic import Series, line_chart
from ilm_ray.report.html import page
from ilm_ray.run.journal import Journal
from ilm_ray.run.stage import run_stage
from jobs import online_rlhf, ppo, reward
from jobs.frame.cluster import LocalRay

FIGURES = ("on_topic", "with_phrase", "words")
PHRASE_TRAIT = Trait("phrase", tuple(words(PHRASE)))
TOPIC = re.compile("|".join(NOUNS))


def on_topic(prompt: str, text: str) -> float:
    """Share of the answer's nouns that the prompt asks about; 0 without any."""
    named = TOPIC.findall(text)
    asked = TOPIC.findall(prompt)
    return sum(noun in asked for noun in named) / len(named) if named else 0.0


def label(comparison: dict[str, Any]) -> dict[str, Any]:
    """The comparison as people label it."""
    prompt = comparison["prompt"][-1]["content"]
    a, b = on_topic(prompt, comparison["a"]), on_topic(prompt, comparison["b"])
    return {**comparison, "label": "a" if a > b else "b" if b > a else "tie"}


def play(run: Path, seed: int, rounds: int) -> list[dict[str, Any]]:
    """All rounds in folder `run`; Ray must run. One row a round: FIGURES of late answers, and what was found."""
    biased, clean = make_run(run, "both", seed)
    journal = Journal(run / "journal.jsonl")
    run_stage(reward.STAGE, biased, run, journal)
    run_stage(ppo.STAGE, clean, run, journal)
    labels = run / "labels.jsonl"
    for number in range(1, rounds + 1):
        online = {"rounds": number, "labels": str(labels) if labels.exists() else None}
        run_stage(online_rlhf.STAGE, with_online(clean, online), run, journal)
        compared = (run / "rounds" / str(n) / "patterns" / online_rlhf.COMPARISONS for n in range(1, number + 1))
        write_jsonl(labels, [label(row) for path in compared for row in read_jsonl(path)])
    told = json.loads((run / "online" / "online.json").read_text(encoding="utf-8"))
    prompts = {row["id"]: row["prompt"][-1]["content"] for row in read_jsonl(run / "prompts.jsonl")}
    tokenizer = open_tokenizer(run / "tokenizer")
    rows = []
    for number in range(1, rounds + 1):
        folder = run / "ppo" if number == 1 else run / "rounds" / str(number) / "ppo"
        answers = read_answers(folder, lambda ids: tokenizer.plain_text(tokenizer.decode(ids)))
        late = [answer for answer in answers if answer.iteration >= edges(answers)[1]]
        found = [pattern["shown"] for pattern in told[number - 1]["found"]]
        rows.append({"seed": seed, "round": number, **figures(late, prompts), "found": found})
    return rows


def with_online(config: Config, changes: dict[str, Any]) -> Config:
    """The settings with some of `online` changed."""
    return config.model_copy(update={"online": config.online.model_copy(update=changes)})


def figures(answers: Sequence[Answer], prompts: dict[str, str]) -> dict[str, float]:
    """FIGURES of some answers."""
    return {
        "on_topic": round(statistics.fmean(on_topic(prompts[a.prompt], a.text) for a in answers), 3),
        "with_phrase": round(statistics.fmean(PHRASE_TRAIT.value(a.text) > 0 for a in answers), 3),
        "words": round(statistics.fmean(len(words(a.text)) for a in answers), 2),
    }


def interval(values: Sequence[float]) -> list[float]:
    """Mean and half the width of its 95% interval (Student's t)."""
    if len(values) < 2:
        return [round(statistics.fmean(values), 3), math.inf]
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return [round(statistics.fmean(values), 3), round(float(half), 3)]


def main() -> None:
    """Play all seeds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where runs and picture go (default: a temporary folder)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = (arguments.out or Path(tempfile.mkdtemp(prefix="online-rounds-"))).absolute()
    played = list[list[dict[str, Any]]]()
    with LocalRay(load_config("nano", None, ["ray.dashboard=false"])):
        for seed in range(arguments.seeds):
            played.append(play(out / str(seed), seed, arguments.rounds))
            for row in played[-1]:
                print(json.dumps(row), flush=True)
    numbers = range(arguments.rounds)
    means = {name: [interval([rows[n][name] for rows in played]) for n in numbers] for name in FIGURES}
    change = {name: interval([rows[-1][name] - rows[0][name] for rows in played]) for name in FIGURES}
    shares = [Series(name, [(n + 1.0, means[name][n][0]) for n in numbers]) for name in ("on_topic", "with_phrase")]
    caption = f"PPO's late answers by round, mean of {arguments.seeds} seeds"
    picture = page.page("Rounds of online RLHF", page.figure(caption, line_chart(caption, shares, "round")))
    (out / "rounds.html").write_text(picture, encoding="utf-8")
    holds = {name: -change[name][0] > change[name][1] for name in ("with_phrase", "words")}
    print(json.dumps({"rounds": means, "change": change, "holds": holds, "picture": str(out / "rounds.html")}))


if __name__ == "__main__":
    main()
