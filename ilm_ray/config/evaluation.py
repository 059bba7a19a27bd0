"""Settings of evaluation: held-out data of a run, public benchmarks."""

from typing import Literal

from ilm_ray.config.section import Context, Count, How, Place, Seconds, Section


class EvaluationConfig(Section):
    """Held-out data that `jobs/evaluation.py` measures on."""

    samples: Count = 8  # conversations shown in the report
    heldout_prompts: Count = 256
    heldout_sequences: Count = 64  # held-out sequences per source for bits per byte
    # Text by whose positions bits per byte are told, a file in UTF-8; None: the run's held-out documents.
    position_text: Place | None = None


class BenchmarksConfig(Section):
    """Public benchmarks by OpenCompass (report section 5); see docs/evaluation.md."""

    # Folder of a model of a run (<run>/sft/model: its tokenizer is found beside it), or the URL of an OpenAI-compatible
    # endpoint (without /v1), then with the name that it knows the model by.
    model: str | None = None
    served_name: str = "model"
    tokenizer: str | None = None  # folder of tokenizer.json, for a URL; None: lengths are estimated from bytes
    suite: Literal["smoke", "base", "chat", "long", "code", "tools", "alignment", "paper"] = "smoke"
    data: str | None = None  # the folder that holds OpenCompass's `data`; jobs/benchmark_data.py writes one
    environment: How[str | None] = None  # of OpenCompass, on every node; None: .venv-eval beside the running one
    examples: Count | None = None  # the first so many of each set; None: all, for smoke 8
    # Tokens of prompt and answer; None: those that the model was trained on, for a URL those of the last phase.
    context: Context | None = None
    # What judges the answers of AlpacaEval, MT-Bench, CompassArena and AlignBench: the URL of an OpenAI-compatible
    # endpoint (without /v1), the name of the model there, and the environment variable that holds the key, if any.
    judge: str | None = None
    judge_name: str | None = None
    judge_key_env: How[str | None] = None
    # Needle in a haystack (suites long, paper): a file or folder of plain text; tokens of prompt and answer, None:
    # powers of two up to the context; how many depths, evenly from the first sentence to the last.
    haystack: str | None = None
    needle_lengths: list[Context] | None = None
    needle_depths: Count = 11
    workers: How[Count] = 2
    deadline_s: How[Seconds] = 7200.0  # for the next set to be done
