"""Every benchmark of the report (section 5) as OpenCompass has it: configuration, shots, mode, where its data lies.

Standard library only: the evaluation environment imports this too.
"""

from dataclasses import dataclass, replace
from typing import Literal

from ilm_ray.base.errors import UserError

Mode = Literal["ppl", "ll", "gen", "mixed"]
Kind = Literal["base", "chat"]

AREAS = ("examinations", "language and knowledge", "reasoning and maths", "code", "long context", "tools", "alignment")
EXAMS, LANGUAGE, REASONING, CODE, LONG, TOOLS, ALIGNMENT = AREAS
JUPYTER = "a Jupyter kernel and an agent that drives it (lagent), which the evaluation environment does not hold"
JUDGE = "a judge: set benchmarks.judge (URL of an OpenAI-compatible endpoint) and benchmarks.judge_name"
HAYSTACK = "a text to hide needles in: set benchmarks.haystack to a file or folder of plain text, such as books"


@dataclass(frozen=True)
class Benchmark:
    """One row of the report's tables.

    config: module below `opencompass.configs.datasets`; mode: how an answer is had: perplexity of each choice, log
    likelihood of each, generation, or the mode that suits each set. shots: None where the report names none and
    OpenCompass's configuration decides. data: files that one of its sets reads, below the data root; in braces a field
    of the set's configuration, `{first}` and `{second}` the halves of its `name`. group: OpenCompass's summary group
    that makes one figure of several sets (`weights` among its fields count). only: part of the name of the sets that
    belong to it. fixed_shots: shots to take instead of those that a retriever with a model of its own would choose.
    whole: it cannot be cut to its first examples. executes: model-written code runs, in the sandbox. judged: a judge
    model compares or rates the answers. native: the project runs it itself, `config` is its module. interpreter: the
    model may run code while it answers (`ilm_ray/evaluation/programs/interpreter.py`). lacks: its needs beside data.
    """

    name: str
    area: str
    kind: Kind
    config: str
    mode: Mode
    shots: int | None
    data: tuple[str, ...]
    group: str = ""
    only: str = ""
    fixed_shots: int = 0
    whole: bool = False
    executes: bool = False
    judged: bool = False
    native: bool = False
    interpreter: bool = False
    lacks: str = ""

    @property
    def key(self) -> str:
        """Unique, and fit for a file name."""
        return f"{self.name}.{self.kind}"


ALPACA_EVAL = ("data/subjective/alpaca_eval/{name}.json", "data/subjective/alpaca_eval/gpt4-turbo/{abbr}.json")
COMPASS_ARENA = ("data/subjective/compass_arena/{name}.json", "data/subjective/compass_arena/gpt4-turbo/{abbr}.json")
ALIGN_BENCH = (
    "data/subjective/alignment_bench/{name}.json",
    "data/subjective/alignment_bench/config/multi-dimension.json",
)
MMLU = ("data/mmlu/dev/{name}_dev.csv", "data/mmlu/test/{name}_test.csv")
CMMLU = ("data/cmmlu/dev/{name}.csv", "data/cmmlu/test/{name}.csv")
CEVAL = ("data/ceval/formal_ceval/dev/{name}_dev.csv", "data/ceval/formal_ceval/val/{name}_val.csv")
AGIEVAL = ("data/AGIEval/data/v1/{name}.jsonl",)
GAOKAO = ("data/GAOKAO-BENCH/data/Multiple-choice_Questions", "data/GAOKAO-BENCH/data/Fill-in-the-blank_Questions")
TRIVIAQA = ("data/triviaqa/triviaqa-train.jsonl", "data/triviaqa/triviaqa-validation.jsonl")
NQ = ("data/nq-open/nq-open-train.jsonl", "data/nq-open/nq-open-validation.jsonl")
C3 = ("data/CLUE/C3/dev_0.json",)
RACE = ("data/race/test/high.jsonl", "data/race/validation/high.jsonl")
FLORES = tuple(
    f"data/flores_first100/{part}/{{{side}}}.{part}" for part in ("dev", "devtest") for side in ("first", "second")
)
WINOGRANDE = ("data/winogrande/dev.jsonl",)
HELLASWAG = ("data/hellaswag/hellaswag.jsonl",)
BBH = ("data/BBH/data/{name}.json",)
GSM8K = ("data/gsm8k/train.jsonl", "data/gsm8k/test.jsonl")
MATH = ("data/math/math.json",)
THEOREMQA = ("data/TheoremQA/theoremqa_test.json",)
MATHBENCH = ("data/mathbench_v1",)
HUMANEVAL = ("data/humaneval/human-eval-v2-20210705.jsonl",)
MBPP = ("data/mbpp/sanitized-mbpp.jsonl",)
HUMANEVAL_X = ("data/humanevalx/humanevalx_{language}.jsonl.gz",)

BENCHMARKS = (
    Benchmark("MMLU", EXAMS, "base", "mmlu.mmlu_ppl_ac766d", "ppl", 5, MMLU, group="mmlu"),
    Benchmark("MMLU", EXAMS, "chat", "mmlu.mmlu_gen_4d595a", "gen", 5, MMLU, group="mmlu"),
    Benchmark("CMMLU", EXAMS, "base", "cmmlu.cmmlu_ppl_041cbf", "ppl", 5, CMMLU, group="cmmlu"),
    Benchmark("CMMLU", EXAMS, "chat", "cmmlu.cmmlu_gen_c13365", "gen", 5, CMMLU, group="cmmlu"),
    Benchmark("C-Eval", EXAMS, "base", "ceval.ceval_ppl_1cd8bf", "ppl", 5, CEVAL, group="ceval"),
    Benchmark("C-Eval", EXAMS, "chat", "ceval.ceval_gen_5f30c7", "gen", 5, CEVAL, group="ceval"),
    Benchmark("AGIEval", EXAMS, "base", "agieval.agieval_mixed_e33d83", "mixed", 0, AGIEVAL, group="agieval"),
    Benchmark("AGIEval", EXAMS, "chat", "agieval.agieval_gen_5c79b4", "gen", 0, AGIEVAL, group="agieval"),
    Benchmark(
        "GAOKAO-Bench objective", EXAMS, "base", "GaokaoBench.GaokaoBench_mixed_9af5ee", "mixed", 0, GAOKAO,
        group="GaokaoBench",
    ),
    Benchmark(
        "GAOKAO-Bench objective", EXAMS, "chat", "GaokaoBench.GaokaoBench_no_subjective_gen_4c31db", "gen", 0, GAOKAO,
        group="GaokaoBench",
    ),
    Benchmark("TriviaQA", LANGUAGE, "base", "triviaqa.triviaqa_wiki_1shot_gen_bc5f21", "gen", None, TRIVIAQA),
    Benchmark("TriviaQA", LANGUAGE, "chat", "triviaqa.triviaqa_wiki_1shot_gen_bc5f21", "gen", None, TRIVIAQA),
    Benchmark("NaturalQuestions", LANGUAGE, "base", "nq.nq_open_1shot_gen_2e45e5", "gen", None, NQ),
    Benchmark("NaturalQuestions", LANGUAGE, "chat", "nq.nq_open_1shot_gen_2e45e5", "gen", None, NQ),
    Benchmark("C3", LANGUAGE, "base", "CLUE_C3.CLUE_C3_ppl_e24a31", "ppl", None, C3),
    Benchmark("C3", LANGUAGE, "chat", "CLUE_C3.CLUE_C3_gen_8c358f", "gen", None, C3),
    Benchmark("RACE-high", LANGUAGE, "base", "race.race_ppl_a138cd", "ppl", None, RACE, only="high"),
    Benchmark("RACE-high", LANGUAGE, "chat", "race.race_gen_69ee4f", "gen", None, RACE, only="high"),
    Benchmark(
        "FLORES", LANGUAGE, "base", "flores.flores_gen_806ede", "gen", 8, FLORES, group="flores_100", fixed_shots=8
    ),
    Benchmark(
        "FLORES", LANGUAGE, "chat", "flores.flores_gen_806ede", "gen", 8, FLORES, group="flores_100", fixed_shots=8
    ),
    Benchmark("WinoGrande", REASONING, "base", "winogrande.winogrande_ll_c5cf57", "ll", None, WINOGRANDE),
    Benchmark("WinoGrande", REASONING, "chat", "winogrande.winogrande_gen_458220", "gen", None, WINOGRANDE),
    Benchmark("HellaSwag", REASONING, "base", "hellaswag.hellaswag_ppl_47bff9", "ppl", None, HELLASWAG),
    Benchmark(
        "HellaSwag", REASONING, "chat", "hellaswag.hellaswag_10shot_gen_e42710", "gen", None,
        (*HELLASWAG, "data/hellaswag/hellaswag_train_sampled25.jsonl"),
    ),
    Benchmark("BBH", REASONING, "base", "bbh.bbh_gen_ee62e9", "gen", None, BBH, group="bbh"),
    Benchmark("BBH", REASONING, "chat", "bbh.bbh_gen_ee62e9", "gen", None, BBH, group="bbh"),
    Benchmark("GSM8K", REASONING, "base", "gsm8k.gsm8k_gen_17d0dc", "gen", 4, GSM8K),
    Benchmark("GSM8K", REASONING, "chat", "gsm8k.gsm8k_gen_1d7fe4", "gen", 4, GSM8K),
    Benchmark("MATH", REASONING, "base", "math.math_4shot_base_gen_db136b", "gen", 4, MATH),
    Benchmark("MATH", REASONING, "chat", "math.math_gen_265cce", "gen", 4, MATH),
    Benchmark("TheoremQA", REASONING, "base", "TheoremQA.TheoremQA_5shot_gen_6f0af8", "gen", None, THEOREMQA),
    Benchmark("TheoremQA", REASONING, "chat", "TheoremQA.TheoremQA_5shot_gen_6f0af8", "gen", None, THEOREMQA),
    Benchmark(
        "MathBench", REASONING, "base", "MathBench.mathbench_2024_few_shot_mixed_4a3fd4", "mixed", None, MATHBENCH
    ),
    Benchmark("MathBench", REASONING, "chat", "MathBench.mathbench_2024_gen_19e486", "gen", None, MATHBENCH),
    Benchmark(
        "HumanEval", CODE, "base", "humaneval.humaneval_gen_8e312c", "gen", 0, HUMANEVAL, whole=True, executes=True
    ),
    Benchmark(
        "HumanEval", CODE, "chat", "humaneval.humaneval_openai_sample_evals_gen_dcae0e", "gen", 0, HUMANEVAL,
        whole=True, executes=True,
    ),
    Benchmark("MBPP sanitized", CODE, "base", "mbpp.sanitized_mbpp_gen_830460", "gen", 3, MBPP, executes=True),
    Benchmark(
        "MBPP sanitized", CODE, "chat", "mbpp.sanitized_mbpp_mdblock_0shot_nocot_gen_a2e416", "gen", 0, MBPP,
        executes=True,
    ),
    Benchmark(
        "HumanEval-X", CODE, "chat", "humanevalx.humanevalx_gen_620cfa", "gen", 0, HUMANEVAL_X, executes=True
    ),
    Benchmark("L-Eval", LONG, "chat", "leval.leval", "gen", 0, ("data/leval/{name}/test.jsonl",)),
    Benchmark(
        "LongBench", LONG, "chat", "longbench.longbench", "gen", 0, ("data/Longbench/data.zip",)
    ),
    Benchmark("Needle-in-a-Haystack", LONG, "chat", "ilm_ray.evaluation.needle", "gen", 0, (), native=True),
    Benchmark(
        "GSM8K, code interpreter", TOOLS, "chat", "gsm8k.gsm8k_agent_gen_c3dff3", "gen", None, GSM8K, executes=True,
        interpreter=True,
    ),
    Benchmark(
        "MATH, code interpreter", TOOLS, "chat", "math.math_agent_gen_af2293", "gen", None, MATH, executes=True,
        interpreter=True,
    ),
    Benchmark(
        "MathBench, code interpreter", TOOLS, "chat", "MathBench.deprecated_mathbench_agent_gen_48ec47", "gen", None,
        ("{path}/{name}.jsonl",), executes=True, interpreter=True,
    ),
    Benchmark("T-Eval", TOOLS, "chat", "teval.teval_en_gen_1ac254", "gen", 0, ("data/teval/EN",)),
    Benchmark(
        "CIBench", TOOLS, "chat", "CIBench.CIBench_template_gen_e6b12a", "gen", 0,
        ("data/cibench_dataset/cibench_template",), lacks=JUPYTER,
    ),
    Benchmark(
        "AlpacaEval", ALIGNMENT, "chat", "subjective.alpaca_eval.alpacav2_judgeby_gpt4", "gen", 0,
        ALPACA_EVAL, judged=True,
    ),
    Benchmark(
        "MT-Bench", ALIGNMENT, "chat", "subjective.multiround.mtbench_single_judge_diff_temp", "gen", 0,
        ("data/subjective/mtbench/{name}.json",), judged=True,
    ),
    Benchmark(
        "CompassArena", ALIGNMENT, "chat", "subjective.compassarena.compassarena_compare", "gen", 0,
        COMPASS_ARENA, judged=True,
    ),
    Benchmark(
        "AlignBench", ALIGNMENT, "chat", "subjective.alignbench.alignbench_judgeby_critiquellm", "gen", 0,
        ALIGN_BENCH, judged=True,
    ),
    Benchmark(
        "IFEval", ALIGNMENT, "chat", "IFEval.IFEval_gen_353ae7", "gen", 0, ("data/ifeval/input_data.jsonl",)
    ),
)  # fmt: skip

# For a laptop, in minutes: one or two sets of each, by generation; the number of examples is a setting.
SMOKE = {
    "MMLU.chat": ("abstract_algebra", "anatomy"),
    "CMMLU.chat": ("agronomy", "anatomy"),
    "AGIEval.chat": ("lsat-ar", "gaokao-history"),
    "C3.chat": (),
    "WinoGrande.chat": (),
    "BBH.chat": ("boolean_expressions", "date_understanding"),
    "GSM8K.chat": (),
    "TheoremQA.chat": (),
    "MMLU.base": ("abstract_algebra",),
    "C3.base": (),
}
_AREAS_OF = {"code": CODE, "long": LONG, "tools": TOOLS, "alignment": ALIGNMENT}


def suite(name: str) -> list[Benchmark]:
    """The benchmarks of a suite, in the order of the report.

    base, chat: the first four areas in the mode that the report uses for such a model; code, long, tools, alignment:
    one area of a chat model; paper: all of them in both modes; smoke: see SMOKE. Raises UserError for another name.
    """
    if name == "paper":
        return list(BENCHMARKS)
    if name == "smoke":
        return [b for b in BENCHMARKS if b.key in SMOKE]
    if name in ("base", "chat"):
        return [b for b in BENCHMARKS if b.kind == name and b.area in AREAS[:4]]
    if name in _AREAS_OF:
        return [b for b in BENCHMARKS if b.kind == "chat" and b.area == _AREAS_OF[name]]
    raise UserError(f"benchmarks.suite='{name}' is none of smoke, base, chat, long, code, tools, alignment, paper")


def with_settings(benchmarks: list[Benchmark], judge: bool, haystack: bool) -> list[Benchmark]:
    """The same benchmarks: without a judge the judged ones lack it, without a haystack the native ones lack that."""

    def lacks(b: Benchmark) -> str:
        if b.judged and not judge:
            return JUDGE
        return HAYSTACK if b.native and not haystack else b.lacks

    return [replace(b, lacks=lacks(b)) for b in benchmarks]
