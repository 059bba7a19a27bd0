"""The batch of a pre-training step: its sequences, piece by piece, back to the archive or the repository."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from ilm_ray.base.errors import UserError
from ilm_ray.base.jsonl import JsonObject
from ilm_ray.config.training import PhaseConfig, PretrainConfig, TrainingConfig
from ilm_ray.data.documents.paths import SOURCES, read_sources
from ilm_ray.data.documents.sources import ROW_BITS, Source
from ilm_ray.data.tokenizer.chat import AnyTokenizer
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.data.tokens.mixture import Mixture
from ilm_ray.data.tokens.shards import DOCUMENTS
from ilm_ray.data.tokens.stream import Piece
from ilm_ray.run import manifest as manifests
from ilm_ray.run.rundata import read_rows
from ilm_ray.training.faults.guard import nth_kept
from ilm_ray.training.pretrain import learning_rate, phase_mixtures, phase_of

HEAD, TAIL = 48, 12  # tokens of a piece that are shown


@dataclass(frozen=True)
class ReadPiece:
    """A piece of a sequence. `start`, `stop`: its tokens within a document of `length`. `origin`: url and dump; then
    `archive` and `capture` (which of its pages, counted from 0), or `repository` and the `files` within the piece."""

    sequence: int
    source: str
    kind: str
    document: int
    start: int
    stop: int
    length: int
    origin: JsonObject
    text: str


@dataclass(frozen=True)
class Batch:
    """The data that one rank reads in a step, counted from 1 as in `metrics.jsonl`."""

    step: int
    steps: int
    phase: str
    context: int
    learning_rate: float
    sequences: list[int]
    pieces: list[ReadPiece]


def explain(run_dir: Path, step: int, rank: int = 0, ranks: int = 1) -> Batch:
    """Raises UserError where the run has no such step or rank, or not the files that it reads."""
    phases, training, seed = _settings(run_dir)
    steps = sum(phase.steps for phase in phases)
    if not 1 <= step <= steps:
        raise UserError(f"step {step} does not exist: pre-training has steps 1 to {steps}; give --step one of them")
    number, inside = phase_of(phases, step - 1)
    phase = phases[number]
    if not 0 <= rank < ranks or phase.sequences % ranks:
        raise UserError(
            f"rank {rank} of {ranks} does not exist: give --ranks a divisor of the {phase.sequences} sequences of a "
            f"step and --rank a number from 0 to below it"
        )
    mixture = _mixtures(run_dir, phases, seed)[number]
    tokenizer = open_tokenizer(run_dir / "tokenizer")
    first = nth_kept(inside, _skipped(run_dir, number)) * phase.sequences
    sequences = list(range(first + rank, first + phase.sequences, ranks))
    archives = _archives(run_dir)
    pieces = [
        _read_piece(sequence, piece, mixture, tokenizer, archives)
        for sequence in sequences
        for piece in mixture.pieces(sequence)
    ]
    return Batch(step, steps, phase.name, phase.context, learning_rate(phases, training, step - 1), sequences, pieces)


def summary(batch: Batch) -> dict[str, Any]:
    """The batch in a few figures."""
    drawn = dict[str, int]()
    for piece in batch.pieces:
        drawn[piece.source] = drawn.get(piece.source, 0) + piece.stop - piece.start
    return {
        "step": batch.step,
        "phase": batch.phase,
        "learning_rate": batch.learning_rate,
        "context": batch.context,
        "sequences": len(batch.sequences),
        "tokens": dict(sorted(drawn.items())),
    }


def details(batch: Batch) -> dict[str, Any]:
    """The details that `summary` leaves out."""
    pieces = [asdict(piece) | {"document": str(piece.document)} for piece in batch.pieces]
    return {"sequence_numbers": batch.sequences, "pieces": pieces}


def lines(batch: Batch) -> Iterator[str]:
    """The batch for people."""
    yield (
        f"step {batch.step} of {batch.steps}: phase {batch.phase}, learning rate {batch.learning_rate:.3g}, "
        f"{len(batch.sequences)} sequences of {batch.context} tokens"
    )
    shown = None
    for piece in batch.pieces:
        if piece.sequence != shown:
            shown = piece.sequence
            yield f"sequence {shown}  {piece.source} ({piece.kind})"
        yield f"  tokens {piece.start} to {piece.stop} of {piece.length}  document {piece.document}  {_place(piece)}"
        yield f"    {piece.text}"


def _place(piece: ReadPiece) -> str:
    origin = piece.origin
    if "repository" in origin:
        return f"{origin['repository']}: {', '.join(origin['files'])}"
    archive = f"  {origin['archive']}, capture {origin['capture']}" if "archive" in origin else ""
    return f"{origin['url']}  {origin['dump']}{archive}"


def _read_piece(
    sequence: int, piece: Piece, mixture: Mixture, tokenizer: AnyTokenizer, archives: dict[int, Source]
) -> ReadPiece:
    source = mixture.sources[piece.source]
    try:
        origin, tokens = source.provenance(piece.document), source.tokens(piece.document)
    except (OSError, ValueError) as error:
        raise UserError(f"a token shard cannot be read ({error}); delete <run>/tokens and run its job again") from None
    document = origin.pop("id")
    if "files" in origin:
        start, stop = (len(_text(tokenizer, tokens[:end])) for end in (piece.start, piece.stop))
        origin["files"] = [f["path"] for f in origin["files"] if f["start"] < stop and f["end"] > start]
    elif archive := archives.get(document >> ROW_BITS):
        origin |= dict(zip(("archive", "capture"), archive.place(document), strict=True))
    inside = tokens[piece.start : piece.stop]
    text = _text(tokenizer, inside[:HEAD])
    if len(inside) > HEAD:
        text += (" ... " if len(inside) > HEAD + TAIL else "") + _text(tokenizer, inside[HEAD:][-TAIL:])
    kind = mixture.part(sequence).kind
    return ReadPiece(
        sequence, piece.source, kind, document, piece.start, piece.stop, len(tokens), origin, " ".join(text.split())
    )


def _text(tokenizer: AnyTokenizer, tokens: np.ndarray) -> str:
    """Text of tokens, without the begin and end tokens."""
    return tokenizer.decode(tokens[(tokens != tokenizer.bos_id) & (tokens != tokenizer.eos_id)].tolist())


def _settings(run_dir: Path) -> tuple[list[PhaseConfig], TrainingConfig, int]:
    """The settings of pre-training: its manifest's, else those of config.yaml.

    Raises UserError where stages that it read have run anew since.
    """
    if not run_dir.is_dir():
        raise UserError(f"run folder {run_dir} does not exist; give --run-dir the folder of a run")
    done, path = manifests.load(run_dir / "pretrain"), run_dir / "config.yaml"
    for stage, read in done.inputs.items() if done else ():
        now = manifests.load(run_dir / stage)
        if now is None or now.fingerprint != read:
            raise UserError(f"{run_dir / stage} is no longer what pre-training read; run jobs/pretrain.py again")
    try:
        values = done.settings if done else yaml.safe_load(path.read_text(encoding="utf-8"))
        training = TrainingConfig.model_validate(values["training"])
        return PretrainConfig.model_validate(values["pretrain"]).phases, training, values["seed"]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give --run-dir the folder of a run") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError, TypeError, KeyError) as error:
        where = "pretrain/manifest.json" if done else "config.yaml"
        reason = str(error).splitlines()[0]
        raise UserError(f"{run_dir / where} does not say how to pre-train ({reason}); run the job again") from None


def _skipped(run_dir: Path, phase: int) -> list[int]:
    """Batches of a phase that training left out after a spike."""
    incidents, _ = read_rows(run_dir / "pretrain" / "incidents.jsonl")
    return incidents[-1]["skipped"][phase] if incidents else []


def _mixtures(run_dir: Path, phases: Sequence[PhaseConfig], seed: int) -> list[Mixture]:
    tokens = run_dir / "tokens"
    if not any(tokens.glob(f"*/train/*{DOCUMENTS}")):
        raise UserError(f"{run_dir} holds no token shards; run jobs/tokenize_corpus.py --run-dir {run_dir} first")
    try:
        return phase_mixtures(phases, seed, run_dir)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{tokens} cannot be read ({error}); delete it and run its job again") from None


def _archives(run_dir: Path) -> dict[int, Source]:
    """The input files of the text stage by the common part of their ids; empty where that stage is not here."""
    sources = read_sources(run_dir / "text") if (run_dir / "text" / SOURCES).is_file() else []
    return {source.key: source for source in sources}
