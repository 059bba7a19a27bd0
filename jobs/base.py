"""Import models from outside as the run's own: `<run>/base/model`, and `<run>/base/{sft,reward,policy,reward_model}`.

    python jobs/base.py --run-dir DIR base=FOLDER_OR_hf://owner/name [from=sft] [key.sub=value ...]

Other jobs bring the models that they need by themselves; this one only brings them. `sft.model`, `reward.model`,
`ppo.policy` and `ppo.reward_model` name a model for one role, `base` for the rest. A model comes from a folder of any
dense family that `ilm_ray.model.huggingface` knows, and needs config.json, .safetensors files and, where the run has
its tokenizer from it, that tokenizer. `docs/your_model.md` shows the way.
"""

import functools
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.jsonl import sha256_of
from ilm_ray.config import Config
from ilm_ray.config.road import Brought, brings_tokenizer, brought
from ilm_ray.model.hub import model_folder
from ilm_ray.run.stage import Context, Result, Stage
from jobs.frame.stages import run_job

if TYPE_CHECKING:
    from ilm_ray.data.tokenizer.chat import AnyTokenizer
    from ilm_ray.data.tokenizer.opening import BroughtInto
    from ilm_ray.model.huggingface import Checkpoint

# Tokenizers of one vocabulary that give this the same ids are taken for one: words, code, four scripts, an emoji.
PROBE = "Hello, world! 1234567 naïve\n\tdef f(x):\n        return x ** 2\n你好，世界。こんにちは Привет 🙂"

CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "world"}]


def stages(config: Config) -> list[Stage]:
    """A stage for each model that the settings name and that this run needs."""
    return [Stage(name, (), _settings, partial(_work, name), partial(_sources, name)) for name in brought(config)]


def tokenizer_folder(config: Config) -> Path | None:
    """The folder of the model that gives the run its tokenizer; None where the run builds one."""
    stage = brings_tokenizer(config)
    return None if stage is None else model_folder(brought(config)[stage].place)


def tokenizer_hashes(folder: Path) -> dict[str, str]:
    """Hashes of the tokenizer's files. Raises UserError where the folder has no tokenizer."""
    from ilm_ray.data.tokenizer.opening import open_tokenizer, tokenizer_files

    open_tokenizer(folder)
    return {f"tokenizer {path.name}": sha256_of(path) for path in tokenizer_files(folder)}


def _settings(config: Config) -> dict[str, Any]:
    return {}


def _sources(name: str, config: Config) -> dict[str, str]:
    """Hashes of the files that the stage reads. A model that does not fit is refused here, before anything runs."""
    from ilm_ray.alignment.reward.conditional import CONDITIONS

    model = brought(config)[name]
    source = model_folder(model.place)
    _check(source, model, tokenizer_folder(config))
    others = [source / other for other in ("config.json", "generation_config.json", CONDITIONS)]
    hashes = {path.name: _sha256(path) for path in [*sorted(source.glob("*.safetensors")), *others] if path.exists()}
    folder = tokenizer_folder(config)
    return hashes | ({} if folder is None else tokenizer_hashes(folder))


def _check(source: Path, model: Brought, tokens: Path | None) -> None:
    """Raise UserError unless the model can play its roles in this run, with the tokenizer in `tokens`."""
    from ilm_ray.data.tokenizer.brought import BroughtTokenizer
    from ilm_ray.data.tokenizer.chat import encode_chat
    from ilm_ray.data.tokenizer.opening import holds_tokenizer, open_tokenizer, require_fit

    checkpoint, where = _opened(source), f"{model.setting}={model.place}"
    if checkpoint.scalar and (roles := [role for role in model.roles if role not in ("reward", "reward_model")]):
        raise UserError(f"{where} is a reward model and cannot begin '{roles[0]}'; give a model ...ForCausalLM")
    if not checkpoint.scalar and "reward_model" in model.roles:
        raise UserError(
            f"{where} is no reward model; give InternLM2ForRewardModel or ...ForSequenceClassification with one label"
        )
    if tokens is None:
        return
    tokenizer = open_tokenizer(tokens)
    require_fit(tokenizer, checkpoint.shape.vocab_size, where)
    if isinstance(tokenizer, BroughtTokenizer) and tokenizer.template is not None:
        encode_chat(tokenizer, CHAT)  # a template that is broken or hostile is refused now, not in the first worker
    if source != tokens and holds_tokenizer(source) and not _same(open_tokenizer(source), tokenizer):
        raise UserError(f"{where} has another tokenizer than {tokens}, which gives the run its own")


def _same(one: "AnyTokenizer", other: "AnyTokenizer") -> bool:
    """Whether ids mean the same in both; tokens that one has beyond the other are no matter."""
    ids = range(min(one.vocab_size, other.vocab_size))
    return one.encode(PROBE) == other.encode(PROBE) and all(one.decode([i]) == other.decode([i]) for i in ids)


def _work(name: str, context: Context) -> Result:
    """Import the weights; where the run's tokenizer has tokens that the model never saw, with rows for them."""
    from ilm_ray.alignment.reward.conditional import CONDITIONS, HASH
    from ilm_ray.model.huggingface import import_model
    from ilm_ray.model.origin import model_files
    from ilm_ray.model.vocabulary import enlarge_vocabulary

    config, folder = context.config, context.folder
    model = brought(config)[name]
    source = model_folder(model.place)
    conditions = _conditions(source, _opened(source)) if "reward_model" in model.roles else None
    about = None if conditions is None else {HASH: conditions[1]}
    shape = _opened(source).shape
    tokens, added = shape.vocab_size, dict[str, int]()
    if (tokenizer := tokenizer_folder(config)) is not None:
        with tempfile.TemporaryDirectory() as scratch:
            bringing = bring(tokenizer, Path(scratch))
        tokens, added = bringing.tokenizer.vocab_size, bringing.added_tokens
    if tokens > shape.vocab_size:
        narrow = folder / ".narrow.tmp"
        import_model(source, narrow, about)
        rows = enlarge_vocabulary(narrow, folder, tokens)
        for path in [*narrow.iterdir(), narrow]:
            path.rmdir() if path.is_dir() else path.unlink()
    else:
        import_model(source, folder, about)
        rows = shape.vocab_size
    files = model_files(folder)
    if conditions is not None:
        write_text_atomic(folder / CONDITIONS, conditions[0])
        files.append(folder / CONDITIONS)
    summary = {
        "setting": model.setting,
        "from": model.place,
        "architecture": _opened(source).config["architectures"][0],
        "parameters": sum(p.numel() for p in _opened(source).model.parameters()),
        "context": shape.context,
        "vocabulary": rows,
        "added_tokens": added,
    }
    return Result(files, {"summary": summary})


def bring(tokenizer: Path, folder: Path) -> "BroughtInto":
    """The tokenizer of a model in the form that the run has it, written into `folder`."""
    from ilm_ray.data.tokenizer.opening import bring_tokenizer

    return bring_tokenizer(tokenizer, folder)


def _conditions(source: Path, checkpoint: "Checkpoint") -> tuple[str, str]:
    """The conditions of a reward model: those that it brings, else none and the token that it is read at.

    Models of InternLM2ForRewardModel are read at `reward_token_id`, which stands behind the conversation; those of
    ...ForSequenceClassification at the conversation's last token, unless config.json names such an id.
    """
    from ilm_ray.alignment.reward.conditional import carried_conditions, unconditional

    token = checkpoint.config.get("reward_token_id")
    if token is not None and not (isinstance(token, int) and 0 <= token < checkpoint.shape.vocab_size):
        raise UserError(f"{source}/config.json: reward_token_id={token!r} is no token of its vocabulary; correct it")
    if token is None and checkpoint.config["architectures"][0].endswith("ForRewardModel"):
        raise UserError(f"{source}/config.json names no reward_token_id, at which such a model is read; add it")
    return carried_conditions(source) or unconditional(token)


@functools.cache
def _opened(source: Path) -> "Checkpoint":
    """Cached: a job looks at it several times."""
    from ilm_ray.model.huggingface import Checkpoint

    return Checkpoint(source)


def _sha256(path: Path) -> str:
    """As `sha256_of`, once a job for a file that stays as it is."""
    found = path.stat()
    return _sha256_once(path, found.st_size, found.st_mtime_ns)


@functools.cache
def _sha256_once(path: Path, size: int, time_ns: int) -> str:
    return sha256_of(path)


if __name__ == "__main__":
    run_job("base", [])
