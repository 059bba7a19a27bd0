"""Needle in a haystack, the requests: the prompts of each cell of the grid go to an OpenAI-compatible endpoint.

A file keeps the answers of a cell, written whole. A cell with a file is not asked again.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from ilm_ray.base.errors import UserError
from ilm_ray.base.files import write_text_atomic
from ilm_ray.base.http import ATTEMPTS, comes_later, pause_s
from ilm_ray.data.tokenizer.opening import open_tokenizer
from ilm_ray.evaluation.needle import NEEDLES, Count, Haystack, chosen, depths, grid_means, language_of, score
from ilm_ray.evaluation.results import SetResult
from ilm_ray.run.progress import Progress

TRIALS = 3  # needles a cell
ANSWER_TOKENS = 64
LEAST_TOKENS = 256  # a needle, its question, their frame, the template and the answer, with room for a sentence or two
TEMPLATE_TOKENS = 16  # what a chat template sets around the one message
BYTES_A_TOKEN = 3  # where no tokenizer is known, as for the other benchmarks
AT_ONCE = 8
SAMPLES = 3
SHOWN_CHARS = 600  # of a prompt's end


class NeedleError(RuntimeError):
    """The endpoint gave no answer, and why."""


@dataclass(frozen=True)
class Grid:
    """lengths: tokens of prompt, template and answer together; depths: how many, evenly from first to last."""

    lengths: list[int]
    depths: int
    trials: int
    seed: int


@dataclass(frozen=True)
class ServedModel:
    """A model at an OpenAI-compatible endpoint. url: without /v1; name: of the model there; tokenizer: folder of its
    tokenizer.json, None: token counts are estimates from bytes; deadline_s: longest wait for an answer."""

    url: str
    name: str
    tokenizer: str | None
    deadline_s: float


@dataclass(frozen=True)
class Cell:
    """A place of a haystack's map, by the numbers of its length (column) and depth (row); `file` keeps its answers."""

    haystack: Haystack
    column: int
    row: int
    file: Path


def read_haystacks(path: Path) -> dict[str, str]:
    """Language -> text of a file, or of all files below a folder in the order of their names.

    Raises UserError where there is no text or a file is no UTF-8.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    texts: dict[str, str] = {}
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"benchmarks.haystack: cannot read {file} as text in UTF-8 ({error})") from None
        if text.strip():
            language = language_of(text)
            texts[language] = texts.get(language, "") + text.strip() + "\n\n"
    if not texts:
        raise UserError(f"benchmarks.haystack={path} holds no text; give a file of plain text or a folder of some")
    return texts


def counter(tokenizer: str | None) -> Count:
    """Tokens of a text by the tokenizer in a folder; without one an estimate from bytes."""
    if tokenizer is None:
        return lambda text: len(text.encode()) // BYTES_A_TOKEN + 1
    loaded = open_tokenizer(Path(tokenizer))
    return lambda text: len(loaded.encode(text))


def run_needles(texts: dict[str, str], grid: Grid, model: ServedModel, cells: Path, results: Path) -> None:
    """Ask the cells that have no file in `cells` yet, and write a SetResult for each language into `results`.

    Its `grid` holds lengths, depths (0 to 1) and scores [depth][length] in per cent. Raises NeedleError where the
    endpoint gives no answer.
    """
    started, count = time.monotonic(), counter(model.tokenizer)
    every = {
        language: [
            Cell(haystack, column, row, cells / language / f"{grid.lengths[column]}-{row}.json")
            for column in range(len(grid.lengths))
            for row in range(grid.depths)
        ]
        for language, haystack in ((language, Haystack(text, count)) for language, text in texts.items())
    }
    left = [cell for of_language in every.values() for cell in of_language if not cell.file.exists()]
    if left:
        total = sum(map(len, every.values()))
        asyncio.run(_ask_all(left, grid, model, Progress("needles", total, total - len(left))))
    seconds = (time.monotonic() - started) / len(every)
    results.mkdir(parents=True, exist_ok=True)
    for language, of_language in every.items():
        result = _result(of_language, grid, seconds)
        write_text_atomic(results / f"{language}.json", json.dumps(result, ensure_ascii=False, allow_nan=False))


async def _ask_all(cells: Sequence[Cell], grid: Grid, model: ServedModel, progress: Progress) -> None:
    """AT_ONCE workers take one cell after the other; the first failure ends all, answered cells stay."""
    left, done = list(reversed(cells)), progress.total - len(cells)
    timeout = aiohttp.ClientTimeout(total=model.deadline_s)
    async with aiohttp.ClientSession(model.url.rstrip("/") + "/", timeout=timeout) as session:

        async def worker() -> None:
            nonlocal done
            while left:
                await _ask_cell(session, left.pop(), grid, model.name)
                done += 1
                progress.update(done)

        workers = [asyncio.create_task(worker()) for _ in range(min(AT_ONCE, len(cells)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _ask_cell(session: aiohttp.ClientSession, cell: Cell, grid: Grid, name: str) -> None:
    length, depth = grid.lengths[cell.column], depths(grid.depths)[cell.row]
    language = cell.haystack.language
    answers = []
    for number in chosen(language, length, cell.row, grid.trials, grid.seed):
        needle = NEEDLES[language][number]
        room = length - ANSWER_TOKENS - TEMPLATE_TOKENS
        try:
            prompt = await asyncio.to_thread(cell.haystack.prompt, needle, room, depth)
        except ValueError as error:
            raise UserError(f"benchmarks.needle_lengths: {length} is too short ({error})") from None
        answer = await _ask(session, name, prompt.text)
        place = {"needle": number, "tokens": prompt.tokens, "at": prompt.at}
        graded = {"answer": answer, "score": score(answer, needle), "end": prompt.text[-SHOWN_CHARS:]}
        answers.append(place | graded)
    cell.file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(cell.file, json.dumps(answers, ensure_ascii=False))


async def _ask(session: aiohttp.ClientSession, name: str, prompt: str) -> str:
    body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": prompt}]}
    body |= {"max_tokens": ANSWER_TOKENS, "temperature": 0.0}
    why = ""
    wait: str | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(pause_s(attempt, wait))
        wait = None
        try:
            async with session.post("v1/chat/completions", json=body) as answer:
                if answer.status == 200:
                    return (await answer.json())["choices"][0]["message"]["content"] or ""
                why = f"answered {answer.status}: {(await answer.text())[:300]}"
                wait = answer.headers.get("Retry-After")
                if not comes_later(answer.status):
                    break
        except TimeoutError:
            why = f"did not answer within {session.timeout.total:g} s"
            break
        except (KeyError, IndexError, TypeError, ValueError) as error:
            why = f"answered what is no completion, or cut ({type(error).__name__}: {error})"
        except aiohttp.ClientError as error:
            why = f"did not answer ({type(error).__name__}: {error})"
    raise NeedleError(f"the endpoint {why}; a prompt of {len(prompt)} characters; cells already answered are kept")


def _result(cells: Sequence[Cell], grid: Grid, seconds: float) -> SetResult:
    by_place = {(cell.column, cell.row): json.loads(cell.file.read_text(encoding="utf-8")) for cell in cells}
    means = grid_means(
        {at: [a["score"] for a in answers] for at, answers in by_place.items()}, len(grid.lengths), grid.depths
    )
    known = [value for row in means for value in row if value is not None]
    every = [answer for of_cell in by_place.values() for answer in of_cell]
    language = cells[0].haystack.language
    # Misses are shown first: they say more than hits.
    shown = sorted(every, key=lambda answer: float(answer["score"]))[:SAMPLES]
    return {
        "metric": "facts found",
        "score": sum(known) / len(known),
        "examples": len(every),
        "cut": 0,
        "seconds": round(seconds, 2),
        "grid": {"lengths": grid.lengths, "depths": depths(grid.depths), "scores": means},
        "tokens": {str(grid.lengths[c]): max(a["tokens"] for a in t) for (c, _), t in sorted(by_place.items())},
        "samples": [
            {
                "prompt": f"… {answer['end']}",
                "answer": answer["answer"],
                "gold": NEEDLES[language][answer["needle"]].text,
                "correct": answer["score"] == 1.0,
            }
            for answer in shown
        ],
    }
