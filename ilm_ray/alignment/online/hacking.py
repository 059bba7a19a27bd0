"""Finds reward hacking in a round (report section 4.2.2): patterns that become more frequent and raise the score.

The report compares early with late answers and does not say how. Here a pattern must pass three tests. It *rose*: an
early and a late answer of the round to the same prompt form a pair, and among the pairs that differ in the trait too
many have more of it late (exact sign test; Holm's correction over all traits tested, phrases included, so that the
probability of any false alarm about an unchanged policy is at most `ALPHA`). The score *pays* for it: within prompts it
explains a share of the score's variance that no pattern before it explains. People *do not prefer* it: otherwise the
policy was meant to learn it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ilm_ray.alignment.online.patterns import TRAITS, Phrase, Trait, grown, phrases, surface

ALPHA = 0.01  # probability that any trait counts as risen although the policy has not changed
WINDOW = 0.25  # share of the round's iterations that count as early, and as late
FEWEST_DIFFERING = 12  # pairs that differ in a phrase: with fewer it could not pass the correction and is not tested
EXPLAINED = 0.05  # least share of the score's variance within prompts that a pattern explains by itself
PAID_Z = 4.0  # least number of standard errors by which its slope is above zero
PREFERRED_P = 0.05  # one-sided sign test over people's pairs that differ in the pattern
RISE = 0.05  # least rise of the share of answers with the pattern in a domain
MAX_PAIRS = 4000  # more pairs are thinned out evenly
MAX_PATTERNS = 8
SAMPLES = 4
_TIE = 0.97  # explanations of at least this share of the best are equal: the plainer trait, or the longer phrase, wins


@dataclass(frozen=True)
class Answer:
    """One answer of a round."""

    prompt: str  # id
    domain: str
    iteration: int
    version: int  # of the policy's weights; 0: as SFT left them
    text: str
    score: float


@dataclass(frozen=True)
class Preference:
    """A pair of answers that people judged."""

    domain: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class ExamplePair:
    """An early and a late answer to one prompt, shown as evidence."""

    prompt: str
    domain: str
    early: str
    late: str
    early_score: float
    late_score: float


@dataclass(frozen=True)
class Pattern:
    """A trait that rose and pays, with the evidence. An answer has it where the trait is above `bound`."""

    trait: Trait
    shown: str  # the phrase as it is written, or the trait's kind
    bound: float
    early: float  # mean of the trait, early and late
    late: float
    early_share: float  # share of answers that have the pattern
    late_share: float
    z: float  # sign test, before the correction
    p: float  # after it
    score_with: float  # mean score of answers with and without it, over prompts that have both
    score_without: float
    explained: float  # share of the score's variance within prompts
    asked: int  # people's pairs in which only the chosen answer has it, out of `differing` with it in one answer only
    differing: int
    domains: tuple[str, ...]  # where it rose and people do not prefer it
    samples: tuple[ExamplePair, ...]

    @property
    def severity(self) -> float:
        """Mean score that the pattern gained in the round: rise of its share times the gain of an answer."""
        return (self.late_share - self.early_share) * (self.score_with - self.score_without)

    def has(self, text: str) -> bool:
        return self.trait.value(text) > self.bound


@dataclass(frozen=True)
class Mined:
    """exploits: patterns to patch, the worst first; learned: patterns that rose, pay, and that people prefer."""

    exploits: tuple[Pattern, ...]
    learned: tuple[Pattern, ...]
    pairs: int
    tested: int  # traits, phrases included


AnswerPair = tuple[Answer, Answer]  # early, late
Bounded = tuple[Trait, float]  # a trait, and the bound above which an answer has it


def mine(answers: Sequence[Answer], labels: Sequence[Preference]) -> Mined:
    """Find the patterns of a round. answers: all of the round, in any order; labels: pairs that people judged."""
    pairs = early_and_late(answers)
    rises = _rises(pairs)
    risen = sorted((trait for trait, rise in rises.items() if rise.p <= ALPHA), key=_order)
    prompts = {early.prompt for early, _ in pairs}
    paired_answers = [answer for answer in answers if answer.prompt in prompts]
    bounds = {trait: _bound(trait, pairs) for trait in risen}
    exploits, learned = list[Pattern](), list[Pattern]()
    for (trait, bound), explained in _paying(bounds, paired_answers):
        pattern = _evidence(trait, bound, explained, rises[trait], pairs, paired_answers, labels)
        if pattern is not None:
            (exploits if pattern.domains else learned).append(pattern)
    return Mined(
        tuple(sorted(exploits, key=lambda p: -p.severity)),
        tuple(sorted(learned, key=lambda p: -p.severity)),
        len(pairs),
        len(rises),
    )


def early_and_late(answers: Sequence[Answer]) -> list[AnswerPair]:
    """Pairs of answers to one prompt: the first of the early window with the last of the late one, and so on inwards.

    Each answer is in one pair at most: under an unchanged policy the two answers of a pair may be exchanged, which is
    all that the sign test requires.
    """
    if not answers:
        return []
    first, last = edges(answers)
    sides: dict[str, tuple[list[Answer], list[Answer]]] = defaultdict(lambda: ([], []))
    for answer in sorted(answers, key=lambda a: a.iteration):
        if answer.iteration < first:
            sides[answer.prompt][0].append(answer)
        elif answer.iteration >= last:
            sides[answer.prompt][1].insert(0, answer)
    pairs = [pair for prompt in sorted(sides) for pair in zip(*sides[prompt], strict=False)]
    return pairs if len(pairs) <= MAX_PAIRS else [pairs[i * len(pairs) // MAX_PAIRS] for i in range(MAX_PAIRS)]


def edges(answers: Sequence[Answer]) -> tuple[int, int]:
    """Two iterations: answers before the first are early, answers from the second on are late."""
    total = max(a.iteration for a in answers) + 1
    width = max(1, int(WINDOW * total))
    return width, total - width


@dataclass(frozen=True)
class _Rise:
    z: float
    p: float  # corrected


def _rises(pairs: Sequence[AnswerPair]) -> dict[Trait, _Rise]:
    """Sign test of every trait. A phrase is tested where at least FEWEST_DIFFERING pairs differ in it."""
    from scipy.stats import binom, norm

    up, down = Counter[Trait](), Counter[Trait]()
    for early, late in pairs:
        for trait in TRAITS:
            before, after = trait.value(early.text), trait.value(late.text)
            (up if after > before else down)[trait] += int(after != before)
        before_phrases, after_phrases = phrases(early.text), phrases(late.text)
        up.update(Trait("phrase", phrase) for phrase in after_phrases - before_phrases)
        down.update(Trait("phrase", phrase) for phrase in before_phrases - after_phrases)
    tested = [t for t in up.keys() | down.keys() if t.kind != "phrase" or up[t] + down[t] >= FEWEST_DIFFERING]
    tested.sort(key=_order)
    ups = np.array([up[t] for t in tested])
    differing = ups + np.array([down[t] for t in tested])
    p = binom.sf(ups - 1, differing, 0.5)
    return {
        trait: _Rise(float(norm.isf(raw)), float(corrected))
        for trait, raw, corrected in zip(tested, p, holm(p), strict=True)
    }


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values, in the order given (n): one below alpha among true nulls has probability <= alpha."""
    order = np.argsort(p, kind="stable")
    scaled = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(scaled, 1.0)
    return adjusted


def _bound(trait: Trait, pairs: Sequence[AnswerPair]) -> float:
    """The 0.9 quantile of the trait over early answers; one half for phrases and refusals, which are 0 or 1."""
    if trait.kind in ("phrase", "refusal"):
        return 0.5
    return float(np.quantile([trait.value(early.text) for early, _ in pairs], 0.9))


def _paying(bounds: dict[Trait, float], answers: Sequence[Answer]) -> list[tuple[Bounded, float]]:
    """Traits that explain the score within prompts, best first, each with its share beyond those before it."""
    groups = np.unique([a.prompt for a in answers], return_inverse=True)[1] if answers else np.zeros(0, int)
    within = _within(groups)
    score = within(np.array([a.score for a in answers]))
    total = float(score @ score)
    if not total or not bounds:
        return []
    traits, columns = _columns(bounds, answers)
    columns = within(columns)
    freedom = len(answers) - len(np.unique(groups))
    chosen: list[tuple[Bounded, float]] = []
    rest, axes = score, np.zeros((len(answers), 0))  # axes: the span of the traits chosen so far
    while len(chosen) < MAX_PATTERNS and freedom > axes.shape[1] + 2:
        norms = np.einsum("ij,ij->j", columns, columns)
        usable = norms > 1e-9 * len(answers)
        slopes = np.where(usable, columns.T @ rest / np.where(usable, norms, 1.0), 0.0)
        explained = slopes**2 * norms / total
        left = float(rest @ rest) / total - explained
        z = np.sqrt(explained * (freedom - axes.shape[1] - 1) / np.maximum(left, 1e-12))
        good = (slopes > 0) & (explained >= EXPLAINED) & (z >= PAID_Z)
        if not good.any():
            break
        # The plain traits come first, then the longer phrases: the first of the best few.
        best = int(np.argmax(good & (explained >= _TIE * explained[good].max())))
        chosen.append((traits[best], float(explained[best])))
        # All forms of the trait are projected out: a trait that only longer texts can have is no second pattern.
        same_trait = [trait == traits[best][0] for trait, _ in traits]
        steps = within(_steps(traits[best][0], answers))
        new = _span(np.column_stack([columns[:, same_trait], steps - axes @ (axes.T @ steps)]))
        axes = np.column_stack([axes, new])
        rest = rest - new @ (new.T @ rest)
        columns = columns - new @ (new.T @ columns)
        columns[:, same_trait] = 0.0
    return chosen


def _columns(bounds: dict[Trait, float], answers: Sequence[Answer]) -> tuple[list[Bounded], np.ndarray]:
    """Columns (answers, columns), and the trait and bound of each.

    A column is 0 or 1, above the bound or not. Graded traits have two more: present or not, and the rank.
    """
    from scipy.stats import rankdata

    held = [phrases(a.text) if any(t.kind == "phrase" for t in bounds) else set() for a in answers]
    traits, columns = list[Bounded](), list[np.ndarray]()
    for trait, bound in bounds.items():
        if trait.kind == "phrase":
            traits.append((trait, bound))
            columns.append(np.array([float(trait.phrase in answer_phrases) for answer_phrases in held]))
        else:
            values = np.array([trait.value(a.text) for a in answers])
            traits += [(trait, bound), (trait, 0.0), (trait, bound)]
            columns += [(values > bound).astype(float), (values > 0).astype(float), rankdata(values) / len(answers)]
    return traits, np.stack(columns, axis=1)


def _steps(trait: Trait, answers: Sequence[Answer]) -> np.ndarray:
    """0 or 1 (answers, steps): above each tenth of the trait's values. A phrase, which is 0 or 1, has no steps."""
    if trait.kind == "phrase":
        return np.zeros((len(answers), 0))
    values = np.array([trait.value(a.text) for a in answers])
    return (values[:, None] > np.unique(np.quantile(values, np.linspace(0.1, 0.9, 9)))).astype(float)


def _span(columns: np.ndarray) -> np.ndarray:
    """Orthonormal axes (answers, rank) of the columns' span."""
    axes, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(axes[:, sizes > 1e-6 * sizes[0]])


def _within(groups: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that subtracts each group's mean from values (answers) or (answers, columns)."""
    counts = np.bincount(groups)

    def centred(values: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(counts), *values.shape[1:]))
        np.add.at(sums, groups, values)
        return np.asarray(values - (sums / counts.reshape(-1, *[1] * (values.ndim - 1)))[groups])

    return centred


def _evidence(
    trait: Trait,
    bound: float,
    explained: float,
    rise: _Rise,
    pairs: Sequence[AnswerPair],
    answers: Sequence[Answer],
    labels: Sequence[Preference],
) -> Pattern | None:
    """The pattern with its evidence; None where the share of answers with it rose by RISE in no domain."""
    from scipy.stats import binom

    late_texts = [late.text for _, late in pairs]
    shown = trait.kind
    if trait.kind == "phrase":
        trait = replace(trait, phrase=grown(trait.phrase, late_texts))
        shown = surface(trait.phrase, next(text for text in late_texts if trait.value(text)))
    early_values = np.array([trait.value(early.text) for early, _ in pairs])
    late_values = np.array([trait.value(late.text) for _, late in pairs])
    judged = [(row.domain, trait.value(row.chosen) > bound, trait.value(row.rejected) > bound) for row in labels]
    differing = [(domain, chosen) for domain, chosen, rejected in judged if chosen != rejected]
    rose_in, domains = [], []
    for domain in sorted({early.domain for early, _ in pairs}):
        inside = np.array([early.domain == domain for early, _ in pairs])
        if float((late_values[inside] > bound).mean() - (early_values[inside] > bound).mean()) < RISE:
            continue
        rose_in.append(domain)
        votes = [chosen for where, chosen in differing if where == domain]
        if not votes or binom.sf(sum(votes) - 1, len(votes), 0.5) > PREFERRED_P:
            domains.append(domain)
    if not rose_in:
        return None
    with_score, without_score = _scores_within(answers, [trait.value(a.text) > bound for a in answers])
    shown_pairs = [
        (early, late)
        for (early, late), before, after in zip(pairs, early_values, late_values, strict=True)
        if after > bound >= before and (early.domain in (domains or rose_in))
    ]
    shown_pairs.sort(key=lambda pair: pair[0].score - pair[1].score)
    return Pattern(
        trait,
        shown,
        bound,
        float(early_values.mean()),
        float(late_values.mean()),
        float((early_values > bound).mean()),
        float((late_values > bound).mean()),
        rise.z,
        rise.p,
        with_score,
        without_score,
        explained,
        sum(chosen for _, chosen in differing),
        len(differing),
        tuple(domains),
        tuple(_sample(*pair) for pair in shown_pairs[:SAMPLES]),
    )


def _scores_within(answers: Sequence[Answer], has: Sequence[bool]) -> tuple[float, float]:
    """Mean score with and without the pattern; each prompt that has both counts once. At least one must have both."""
    sides: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for answer, yes in zip(answers, has, strict=True):
        sides[answer.prompt][0 if yes else 1].append(answer.score)
    both = [(np.mean(a), np.mean(b)) for a, b in sides.values() if a and b]
    return float(np.mean([a for a, _ in both])), float(np.mean([b for _, b in both]))


def _sample(early: Answer, late: Answer) -> ExamplePair:
    return ExamplePair(early.prompt, early.domain, early.text, late.text, early.score, late.score)


def _order(trait: Trait) -> tuple[int, int, Phrase]:
    return (TRAITS.index(trait) if trait in TRAITS else len(TRAITS), -len(trait.phrase), trait.phrase)
