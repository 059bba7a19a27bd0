"""Words that hold a text together: conjunctions and pronouns (cohesion in LongWanjuan, arXiv 2402.13583, section 3)."""

import functools

import numpy as np

from ilm_ray.data.documents.codepoints import flatten
from ilm_ray.data.documents.language import tokens
from ilm_ray.data.documents.scan import hash_token

CONJUNCTIONS = {
    "en": """
and | but | or | nor | so | yet | for | because | although | though | while | whereas | since | unless | until | if
when | whenever | where | wherever | as | than | whether | once | before | after | however | therefore | thus | hence
moreover | furthermore | besides | also | then | next | finally | first | second | third | meanwhile | otherwise
instead | nevertheless | nonetheless | still | accordingly | consequently | similarly | likewise | especially | formally
indeed | namely | rather | either | neither | both | additionally | afterwards | eventually | initially | previously
subsequently | specifically | for example | for instance | in addition | in fact | in contrast | in other words
in particular | in conclusion | as a result | as well as | on the other hand | on the one hand | that is | such as
at first | at last | at the same time | by contrast | even if | even though | so that | in order to | due to
""",
    "zh": """
和 | 与 | 及 | 而 | 但 | 或 | 若 | 则 | 并 | 且 | 因 | 故 | 乃 | 遂 | 即 | 以及 | 并且 | 而且 | 但是 | 可是
不过 | 然而 | 因为 | 由于 | 所以 | 因此 | 因而 | 于是 | 如果 | 假如 | 要是 | 倘若 | 只要 | 只有 | 除非 | 虽然
尽管 | 即使 | 哪怕 | 无论 | 不管 | 不论 | 或者 | 还是 | 要么 | 否则 | 不然 | 同时 | 此外 | 另外 | 其次 | 首先
最后 | 然后 | 接着 | 随后 | 后来 | 起初 | 总之 | 例如 | 比如 | 譬如 | 也就是说 | 换句话说 | 换言之 | 与此同时
相反 | 反之 | 同样 | 类似 | 特别是 | 尤其 | 尤其是 | 既然 | 以便 | 以免 | 直到 | 当 | 时 | 之后 | 之前 | 以后
以前 | 通常 | 一般来说 | 事实上 | 实际上 | 其实 | 从而 | 只见 | 却说 | 且说 | 话说 | 原来 | 忽然 | 正是 | 何况
况且 | 也 | 又 | 还 | 就 | 才 | 便
""",
}
PRONOUNS = {
    "en": """
i | me | my | mine | myself | you | your | yours | yourself | he | him | his | himself | she | her | hers | herself
it | its | itself | we | us | our | ours | ourselves | they | them | their | theirs | themselves | one | this | that
these | those | who | whom | whose | which | what | each | some | any | all | none | nothing | something | everyone
""",
    "zh": """
我 | 你 | 您 | 他 | 她 | 它 | 我们 | 你们 | 他们 | 她们 | 它们 | 自己 | 这 | 那 | 这个 | 那个 | 这些 | 那些
这里 | 那里 | 彼此 | 其 | 之 | 此 | 谁 | 什么 | 咱 | 俺 | 吾 | 汝 | 该 | 某 | 各 | 每
""",
}
_COMBINE = np.uint64(0x9E3779B97F4A7C15)


def phrases(lists: dict[str, str], language: str) -> list[str]:
    """The phrases of a language; of any but Chinese those of English."""
    listed = lists["zh" if language == "zh" else "en"]
    return sorted({phrase.strip() for line in listed.strip().split("\n") for phrase in line.split("|")})


def share_of_phrases(hashes: np.ndarray, table: dict[int, np.ndarray]) -> float:
    """Share of the tokens that are part of a phrase of `table`; hashes: uint64 [tokens] of `scan.count`."""
    covered = np.zeros(len(hashes), bool)
    grams = np.zeros(len(hashes), np.uint64)
    for length in range(1, max(table) + 1):
        if length > len(hashes):
            break
        grams = _joined(grams[: len(hashes) - length + 1], hashes[length - 1 :])
        if length not in table:
            continue
        places = np.searchsorted(table[length], grams)
        starts = np.flatnonzero(table[length][np.minimum(places, len(table[length]) - 1)] == grams)
        for offset in range(length):
            covered[starts + offset] = True
    return float(covered.mean()) if len(hashes) else 0.0


@functools.lru_cache(maxsize=4)
def phrase_hashes(kind: str, language: str) -> dict[int, np.ndarray]:
    """Number of tokens -> sorted hashes of the phrases with so many. kind: "conjunctions" or "pronouns"."""
    table: dict[int, list[np.uint64]] = {}
    for phrase in phrases(CONJUNCTIONS if kind == "conjunctions" else PRONOUNS, language):
        words = np.array([hash_token(flatten([word])[0]) for word in tokens(phrase)], np.uint64)
        value = np.zeros(1, np.uint64)
        for word in words:
            value = _joined(value, np.array([word]))
        table.setdefault(len(words), []).append(value[0])
    return {length: np.sort(np.array(hashes, np.uint64)) for length, hashes in table.items()}


def _joined(grams: np.ndarray, following: np.ndarray) -> np.ndarray:
    return (grams * _COMBINE) ^ following  # wraps around, as hashes do
