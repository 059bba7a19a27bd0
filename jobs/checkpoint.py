"""List, verify, promote, export and import checkpoints and models. Needs no Ray.

    python jobs/checkpoint.py ls      --run-dir DIR --stage pretrain|sft|reward|ppo
    python jobs/checkpoint.py verify  --run-dir DIR --stage S [--step N]
    python jobs/checkpoint.py promote --run-dir DIR --stage S --step N
    python jobs/checkpoint.py export  --run-dir DIR --stage pretrain|sft|ppo|reward --out DIR [--step N]
                                      [--format FAMILY] [--dtype bf16|fp16|fp32] [--upload hf://owner/name]
    python jobs/checkpoint.py import  --model DIR --out DIR

Of PPO the checkpoints are listed and verified, and the validated policies in `ppo/candidates` promoted. `ls` lists the
copies in all tiers and looks at local files' sizes; `verify` hashes local ones and names the damaged files (exit code
2). `promote` makes a step's weights the model that later stages read: they run anew, the stage itself does not.
`export` writes a folder with config, weights, tokenizer and chat template, as the family's checkpoint that the run
began with, in its type; a model of our own goes out in LLaMA's format, which Transformers and vLLM read as it is.
`import` turns a checkpoint of any dense family into a folder that our own stages read, with a reward model's
conditions. `export` also writes a model card, and `--upload` sends the folder to the Hub with the token in HF_TOKEN;
without one it lists the files that would go. Words for people come first, the last line is one JSON object. Exit codes
as for every job: 0 done, 2 bad input, 1 anything else.
"""

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import temporary_path, write_text_atomic
from ilm_ray.config import load_config
from ilm_ray.run.lock import only_driver
from ilm_ray.run.whole import require_whole_stage
from ilm_ray.training.checkpoints import commit
from jobs.frame.command import Parser, run_verb

if TYPE_CHECKING:
    from ilm_ray.training.checkpoints.checkpoints import Storage
    from ilm_ray.training.checkpoints.listing import Listed

TRAINED = ("pretrain", "sft", "reward")  # stages that leave checkpoints


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb, print the JSON line, return the exit code."""
    return run_verb("checkpoint", _parser(), argv)


def _parser() -> Parser:
    from ilm_ray.model.families import FAMILIES
    from ilm_ray.model.huggingface import DTYPES

    parser = Parser(prog="jobs/checkpoint.py", description="Checkpoints and models of a run.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="ls|verify|promote|export|import")

    def of_a_run(name: str, words: str, work: Any, stages: Sequence[str] = TRAINED) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=words)
        verb.add_argument("--run-dir", type=Path, required=True, help="folder of a run")
        verb.add_argument("--stage", choices=stages, required=True)
        verb.set_defaults(work=work)
        return verb

    of_a_run("ls", "checkpoints in all tiers", _ls, (*TRAINED, "ppo"))
    verify = of_a_run("verify", "hash local checkpoints", _verify, (*TRAINED, "ppo"))
    verify.add_argument("--step", type=int, help="default: all")
    chosen = of_a_run("promote", "a step's weights as the stage's model", _promote, (*TRAINED, "ppo"))
    chosen.add_argument("--step", type=int, required=True)
    out = of_a_run("export", "a stage's model, for Transformers and vLLM", _export, (*TRAINED, "ppo"))
    out.add_argument("--step", type=int, help="of one of its checkpoints (default: the stage's model)")
    out.add_argument("--format", choices=sorted(FAMILIES), help="default: the model's own, else llama")
    out.add_argument("--dtype", choices=sorted(DTYPES), help="default: that of the model that it began with, else bf16")
    out.add_argument("--upload", metavar="hf://owner/name", help="send the folder there, with HF_TOKEN")
    into = verbs.add_parser("import", help="a dense family's checkpoint, for our stages")
    into.add_argument("--model", type=Path, required=True, help="folder with config.json and .safetensors")
    into.set_defaults(work=_import)
    for verb in (out, into):
        verb.add_argument("--out", type=Path, required=True, help="new folder")
    return parser


def _ls(a: argparse.Namespace) -> dict[str, Any]:
    if a.stage == "ppo":
        return _ls_ppo(a)
    from ilm_ray.training.checkpoints.listing import listed

    storage = _storage(a)
    try:
        rows = listed(_folder(a) / "checkpoints", storage)
    except UserError:
        raise
    except Exception as error:  # whatever a storage raises
        raise UserError(
            f"the store of {a.run_dir} cannot be read ({type(error).__name__}: {error}); check its URL and your access"
        ) from None
    print(f"{'step':>10} {'tokens':>16} {'MiB':>10} {'age h':>8}  tier   state")
    for row in rows:
        print(_row(row))
    return {"stage": a.stage, "checkpoints": [{"step": row.step, "tier": row.tier, "note": row.note} for row in rows]}


def _row(row: "Listed") -> str:
    if row.record is None:
        return f"{row.step:>10} {'-':>16} {'-':>10} {'-':>8}  {row.tier:<6} {row.note}"
    record = row.record
    hours = (time.time() - record.time) / 3600
    state = "committed" + (f", {row.note}" if row.note else "")
    tokens = record.state.get("tokens", 0)
    return f"{row.step:>10} {tokens:>16,} {record.bytes / 2**20:>10.1f} {hours:>8.1f}  {row.tier:<6} {state}"


def _ls_ppo(a: argparse.Namespace) -> dict[str, Any]:
    from ilm_ray.alignment.ppo import checkpoint_record as records

    rows = list[dict[str, Any]]()
    print(f"{'iteration':>10} {'version':>10} {'MiB':>10}  state")
    for path in sorted((_folder(a) / "checkpoints").glob("iteration-*")):
        number, note = records.iteration_of(path), "committed"
        version, size = "-", "-"
        try:
            record = records.read_record(path)
            version, size = str(record.counters.get("version", "-")), f"{record.bytes / 2**20:.1f}"
        except FileNotFoundError:
            note = records.DAMAGED if (path / records.DAMAGED).exists() else "not committed"
        except (OSError, ValueError) as error:
            note = f"{records.COMMIT} cannot be read ({error})"
        print(f"{number:>10} {version:>10} {size:>10}  {note}")
        rows.append({"step": number, "tier": "local", "note": "" if note == "committed" else note})
    return {"stage": a.stage, "checkpoints": rows}


def _to_verify(a: argparse.Namespace) -> dict[Path, list[str]]:
    """Checkpoint -> its damaged parts."""
    from ilm_ray.alignment.ppo import checkpoint_record as records
    from ilm_ray.training.checkpoints.promotion import checkpoint_of

    folder = _folder(a)
    if a.stage == "ppo":
        paths = records.committed(folder / "checkpoints")
        chosen = [path for path in paths if a.step is None or records.iteration_of(path) == a.step]
        if a.step is not None and not chosen:
            raise UserError(f"{folder} has no committed checkpoint of iteration {a.step}; see `ls`")
        return {path: records.damage(path) for path in chosen}
    paths = commit.committed(folder / "checkpoints") if a.step is None else [checkpoint_of(folder, a.step)]
    return {path: commit.verify(path) for path in paths}


def _verify(a: argparse.Namespace) -> dict[str, Any]:
    damaged, paths = list[str](), _to_verify(a)
    for path, wrong in paths.items():
        damaged += [f"{path.name}: {phrase}" for phrase in wrong]
        print(f"{path.name}  {'DAMAGED' if wrong else 'whole'}")
    if damaged:
        raise UserError(
            f"{'; '.join(damaged[:5])}; training would go on from an earlier checkpoint or the store's copy"
        )
    return {"stage": a.stage, "whole": [int(path.name.partition("-")[2]) for path in paths]}


def _promote(a: argparse.Namespace) -> dict[str, Any]:
    from ilm_ray.training.checkpoints.promotion import promote, promote_candidate

    folder = _folder(a)
    with only_driver(a.run_dir.absolute(), "jobs/checkpoint.py promote"):
        summary = (promote_candidate if a.stage == "ppo" else promote)(folder, a.step)
    print(
        f"{a.run_dir / a.stage / 'model'} now holds step {a.step}. The stage's manifest has the new hashes, so the "
        "stage is not run again; stages that read its model are, at their next start."
    )
    return {"stage": a.stage, "promoted": summary}


def _export(a: argparse.Namespace) -> dict[str, Any]:
    from ilm_ray.alignment.reward.conditional import load_conditions, save_conditions
    from ilm_ray.data.tokenizer.opening import open_tokenizer
    from ilm_ray.model.hub import hub_name
    from ilm_ray.model.huggingface import DTYPES, export_model
    from ilm_ray.model.origin import load_origin
    from ilm_ray.model.weights import load_causal, load_scalar
    from ilm_ray.serving.folder import token_ids
    from ilm_ray.serving.model_card import model_card
    from ilm_ray.training.checkpoints.promotion import whole_checkpoint, whole_model

    if a.upload is not None:
        hub_name(a.upload)  # a wrong one is refused before anything is written
    tokenizer = open_tokenizer(a.run_dir / "tokenizer")
    if a.step is None:
        require_whole_stage(a.run_dir / a.stage)
        model = (load_scalar if a.stage == "reward" else load_causal)(a.run_dir / a.stage / "model")
    else:
        model = whole_model(whole_checkpoint(_folder(a), a.step))
    origin = load_origin(a.run_dir / a.stage / "model")
    ids = token_ids(tokenizer, origin)
    ids |= {"reward_token_id": tokenizer.reward_id} if a.stage == "reward" else {}
    with _whole(a.out) as folder:
        config = export_model(model, folder, a.format, DTYPES[a.dtype] if a.dtype else None, ids, origin)
        if a.stage == "reward":  # without them its scores mean nothing
            save_conditions(folder, tokenizer, load_conditions(a.run_dir / "reward" / "model", tokenizer).prompts)
        tokenizer.save_huggingface(folder)
        if a.step is None and (a.run_dir / a.stage / "manifest.json").is_file():  # a step is no finished stage
            card = model_card(a.run_dir, a.stage, a.out.name)
            write_text_atomic(folder / "README.md", card)
    sent = {} if a.upload is None else {"upload": _upload(a.out, a.upload)}
    parameters = sum(p.numel() for p in model.parameters())
    written = {"format": config["model_type"], "dtype": config.get("dtype") or config["torch_dtype"]}
    exported = {"stage": a.stage, **written, "parameters": parameters, "out": str(a.out)} | sent
    return exported if a.step is None else exported | {"step": a.step}


def _upload(folder: Path, place: str) -> dict[str, Any]:
    from ilm_ray.model.hub import upload_folder

    files = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    for name, size in files.items():
        print(f"{size:>16,}  {name}")
    if token := os.environ.get("HF_TOKEN"):
        return {"to": place, "commit": upload_folder(folder, place, token)}
    print(f"Nothing was sent to {place}: HF_TOKEN is not set. These files would go.")
    return {"to": place, "dry_run": True, "files": len(files), "bytes": sum(files.values())}


def _import(a: argparse.Namespace) -> dict[str, Any]:
    from ilm_ray.alignment.reward.conditional import CONDITIONS, HASH, carried_conditions
    from ilm_ray.model.huggingface import import_model

    carried = carried_conditions(a.model)
    with _whole(a.out) as folder:
        model = import_model(a.model, folder, None if carried is None else {HASH: carried[1]})
        if carried is not None:
            write_text_atomic(folder / CONDITIONS, carried[0])
    return {"parameters": sum(p.numel() for p in model.parameters()), "out": str(a.out)}


def _folder(a: argparse.Namespace) -> Path:
    folder: Path = a.run_dir.absolute() / a.stage
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; give the --run-dir of a run that has stage '{a.stage}'")
    return folder


def _storage(a: argparse.Namespace) -> "Storage":
    """As the run's own configuration says."""
    from ilm_ray.training.checkpoints.settings import storage_of

    settings = a.run_dir / "config.yaml"
    config = load_config(file=settings if settings.exists() else None)
    return storage_of(config.training, a.run_dir.absolute(), _folder(a))


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
