"""Models in and out. Needs no Ray.

    python jobs/checkpoint.py export --run-dir DIR --stage pretrain|sft|ppo|reward --out DIR
                                     [--layout internlm2|llama] [--dtype bf16|fp32]
    python jobs/checkpoint.py import --model DIR --out DIR

`export` writes a folder with config, weights, tokenizer and chat template: the LLaMA layout is read by Transformers
and vLLM as it is, InternLM2's by vLLM's native classes. `import` turns a folder in either layout into one that our own
stages read. Exit codes as for every job: 0 done, 2 bad input, 1 anything else.
"""

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ilm_ray.corpus.files import temporary_path
from ilm_ray.errors import UserError
from ilm_ray.model.exchange import DTYPES, LAYOUTS, export_model, export_tokens, import_model
from ilm_ray.model.huggingface import load_causal, load_scalar, save_internlm2
from ilm_ray.tokenizer.tokenizer import SPECIALS, Tokenizer
from jobs._plain import Parser, run_plain

STAGES = ("pretrain", "sft", "ppo", "reward")


def main(argv: Sequence[str] | None = None) -> int:
    """Do one verb, print the JSON line, return the exit code."""

    def work(summary: dict[str, Any]) -> None:
        arguments = _parser().parse_args(argv)
        summary["verb"] = arguments.verb
        summary |= arguments.work(arguments)

    return run_plain("checkpoint", work)


def _parser() -> Parser:
    parser = Parser(prog="jobs/checkpoint.py", description="Models in and out.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="export|import")
    out = verbs.add_parser("export", help="a stage's model, for Transformers and vLLM")
    out.add_argument("--run-dir", type=Path, required=True, help="folder of a run")
    out.add_argument("--stage", choices=STAGES, required=True)
    out.add_argument("--layout", choices=LAYOUTS, default="llama", help="default llama")
    out.add_argument("--dtype", choices=sorted(DTYPES), default="bf16", help="default bf16")
    out.set_defaults(work=_export)
    into = verbs.add_parser("import", help="a model in either layout, for our stages")
    into.add_argument("--model", type=Path, required=True, help="folder with config.json and .safetensors")
    into.set_defaults(work=_import)
    for verb in verbs.choices.values():
        verb.add_argument("--out", type=Path, required=True, help="new folder")
    return parser


def _export(a: argparse.Namespace) -> dict[str, Any]:
    tokenizer = Tokenizer.load(a.run_dir / "tokenizer")
    model = (load_scalar if a.stage == "reward" else load_causal)(a.run_dir / a.stage / "model")
    ids = export_tokens({name: tokenizer.special(name) for name in SPECIALS})
    with _whole(a.out) as folder:
        export_model(model, folder, a.layout, DTYPES[a.dtype], ids)
        tokenizer.save_huggingface(folder)
    parameters = sum(p.numel() for p in model.parameters())
    return {"stage": a.stage, "layout": a.layout, "dtype": a.dtype, "parameters": parameters, "out": str(a.out)}


def _import(a: argparse.Namespace) -> dict[str, Any]:
    model = import_model(a.model)
    with _whole(a.out) as folder:
        save_internlm2(model, folder)
    return {"parameters": sum(p.numel() for p in model.parameters()), "out": str(a.out)}


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A new folder that appears with all that was written into it, or not at all."""
    if folder.exists():
        raise UserError(f"--out {folder} is there already; give a new folder")
    temporary = temporary_path(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(folder)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror or error}; give a folder that can be written") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
