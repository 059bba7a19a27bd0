"""The fast path (report section 4.2.2): preference pairs against a pattern, and a reward model trained on them.

The report contrasts early with late answers of the round, 20 to 100 pairs a pattern. Such answers differ in more than
the pattern, so a third of the pairs here is one early answer with and without it.
"""

import hashlib
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ilm_ray.alignment.online.hacking import Answer, Pattern, Preference, early_and_late, edges
from ilm_ray.alignment.online.patterns import refusing_sentence, sentences, stands_first, words
from ilm_ray.alignment.reward.task import RewardTask
from ilm_ray.base.jsonl import JsonObject
from ilm_ray.config import Config
from ilm_ray.model.internlm2 import CausalLM, ScalarModel
from ilm_ray.model.weights import read_weights

FEWEST, MOST = 20, 100  # pairs a pattern, as the report has it
HELDOUT_SHARE = 0.2  # of the prompts, to measure the patched model on
OLD_PER_PATCH = 4  # people's pairs that are trained on again for each patch, so that nothing else is forgotten
_MOST_SENTENCES = 200


def patch_pairs(
    pattern: Pattern, answers: Sequence[Answer], prompts: Mapping[str, Any], where: str
) -> list[JsonObject]:
    """Pairs in the form of `reward.data` that prefer answers without the pattern, all domains in turn.

    prompts: messages by prompt id; where: name of the pattern in the run, such as round-1/phrase-0. Two thirds at most
    are an early answer without against a late one with it (`made`: contrast), best-paid first; the rest is an early
    answer against itself with the pattern put in (`made`: inserted). Fewer than 20 where the round has no more answers.
    """
    pairs = [p for p in early_and_late(answers) if p[0].domain in pattern.domains and not pattern.has(p[0].text)]
    contrasts = sorted((p for p in pairs if pattern.has(p[1].text)), key=lambda p: p[0].score - p[1].score)
    contrasts = _in_turn(contrasts)[: MOST * 2 // 3]
    late = [later.text for _, later in pairs if pattern.has(later.text)]
    wanted = max(FEWEST - len(contrasts), len(contrasts) // 2)
    first, _ = edges(answers)
    normal = [a for a in answers if a.iteration < first and a.domain in pattern.domains and not pattern.has(a.text)]
    inserted = list[tuple[Answer, str]]()
    for early, _ in _in_turn([(answer, answer) for answer in normal]):
        if len(inserted) == wanted:
            break
        changed = with_pattern(pattern, early.text, late)
        if changed is not None:
            inserted.append((early, changed))
    rows = [(early, later.text, "contrast") for early, later in contrasts]
    rows += [(early, changed, "inserted") for early, changed in inserted]
    return [
        {
            "id": f"{where}-{number:03d}",
            "domain": early.domain,
            "prompt": prompts[early.prompt],
            "chosen": early.text,
            "rejected": rejected,
            "split": "heldout" if prompt_share(early.prompt) < HELDOUT_SHARE else "train",
            "pattern": where,
            "made": made,
        }
        for number, (early, rejected, made) in enumerate(rows)
        if early.text.strip()
    ]


def with_pattern(pattern: Pattern, text: str, late: Sequence[str]) -> str | None:
    """`text` with the pattern put into it as the answers `late` have it; None where that cannot be done."""
    parts = [part for part in sentences(text) if part.strip()]
    if not parts:
        return None
    kind, glue = pattern.trait.kind, " " if text.isascii() else ""
    changed = text
    if kind == "phrase":
        first = stands_first(pattern.trait.phrase, late)
        changed = f"{pattern.shown}{glue}{text}" if first else f"{text}{glue}{pattern.shown}"
    elif kind == "refusal":
        refusal = next((sentence for answer in late if (sentence := refusing_sentence(answer))), None)
        changed = f"{refusal}{glue}{text}" if refusal else text
    elif kind == "marks":
        changed = "\n".join(f"- {part.strip()}" for part in parts)
    else:  # length and repetition: the text repeats its own sentences
        goal = max(pattern.late, 1.5 * len(words(text))) if kind == "length" else 0.0
        more = parts if kind == "length" else parts[-1:]
        for number in range(_MOST_SENTENCES):
            if pattern.has(changed) and len(words(changed)) >= goal:
                break
            changed += glue + more[number % len(more)].strip()
    return changed if pattern.has(changed) else None


def mix(
    patches: Sequence[JsonObject], labelled: Sequence[JsonObject], old: Sequence[JsonObject], seed: int
) -> list[JsonObject]:
    """The reward model's training pairs: all patches, all newly labelled pairs, and `OLD_PER_PATCH` of the old training
    pairs for each of those, or all. Old pairs that are held out stay held out."""
    kept = [row for row in old if row.get("split", "train") == "heldout"]
    train = [row for row in old if row.get("split", "train") == "train"]
    count = min(len(train), OLD_PER_PATCH * (len(patches) + len(labelled)))
    chosen = sorted(random.Random(seed).sample(range(len(train)), count))
    return [*patches, *labelled, *(train[i] for i in chosen), *kept]


def preferences(rows: Sequence[JsonObject]) -> list[Preference]:
    """People's judgements of the training pairs."""
    return [
        Preference(row["domain"], row["chosen"], row["rejected"])
        for row in rows
        if row.get("split", "train") == "train"
    ]


class PatchTask(RewardTask):
    """The reward model's training, begun from an earlier reward model's weights."""

    def __init__(self, config: Config, run_dir: Path, earlier: Path, pairs: Path | None = None) -> None:
        super().__init__(config, run_dir, pairs)
        self.base = earlier

    def fill(self, part: CausalLM | ScalarModel) -> None:
        read_weights(part, self.base)


def prompt_share(prompt: str) -> float:
    """A number in [0, 1) that depends on the prompt's id alone."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6], "big") / 2**48


def _in_turn(pairs: Sequence[tuple[Answer, Answer]]) -> list[tuple[Answer, Answer]]:
    """The same pairs, domains in turn; within a domain every prompt comes once before any comes again."""
    columns: dict[str, list[tuple[int, int]]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    for number, (early, _) in enumerate(pairs):
        columns[early.domain].append((seen[early.prompt], number))
        seen[early.prompt] += 1
    turns = zip_longest(*(sorted(columns[domain]) for domain in sorted(columns)))
    return [pairs[entry[1]] for turn in turns for entry in turn if entry is not None]
