"""The tokenizer of full size, learned from real text and measured on held-out files against cl100k and InternLM2's own.

    python benchmarks/tokenizer.py [--data ../shared/data] [--rounds 5]

Learned: 60,004 tokens of cl100k (the first ones, and for comparison those that English and code need most) + 32,397
Chinese tokens = 92,544 ids with spare and special ones. Held out: whole files, one novel of four and every eighth file
of every archive; a book's second edition stays on its side. Chinese questions and dialogues of other origin, of which
nothing was learned, show how far the small corpus carries. Speed: against tiktoken's own cl100k, in alternating rounds.
"""

import argparse
import json
import statistics
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ilm_ray.data.tokenizer.base import count_tokens, first_tokens, most_used_tokens
from ilm_ray.data.tokenizer.card import lengths, witness
from ilm_ray.data.tokenizer.chinese import learn_tokens
from ilm_ray.data.tokenizer.cl100k import cl100k, cl100k_encoding
from ilm_ray.data.tokenizer.tokenizer import Tokenizer

DATA = Path(__file__).parents[1].parent / "shared" / "data"
BASE, CHINESE, VOCABULARY = 60_004, 32_397, 92_544
HELDOUT_EVERY = 8
HELDOUT_BOOKS = ("西游记.txt", "972.txt", "dvldc10.txt", "3261.txt", "nwsnw10.txt", "tinyshakespeare.txt")
SPEED_BYTES = 2_000_000  # of each language


class Document(NamedTuple):
    """A file. `kind` names the row of the table it counts in."""

    language: str
    kind: str
    text: str
    heldout: bool


Encode = Callable[[str], list[int]]


def documents(data: Path) -> Iterator[Document]:
    """The texts, the code of this Python and its C headers, and the Chinese of other origin (held out as a whole)."""
    text = data / "text"
    for folder, language in (("books_zh", "zh"), ("books_en", "en")):
        for path in sorted((text / folder).iterdir()):
            yield Document(language, f"{language} novels", path.read_text(errors="replace"), path.name in HELDOUT_BOOKS)
    for name, kind in (
        ("docs/d2l-zh-md.tar.gz", "textbook"),
        ("docs/pingcap-docs-cn-md.tar.gz", "manual, half Latin"),
        ("docs/rust-book-cn-md.tar.gz", "Rust book"),
        ("poetry_zh/chinese-poetry-sample.tar.gz", "verse"),
    ):
        with tarfile.open(text / name) as archive:
            members = sorted((m for m in archive if m.isfile()), key=lambda m: m.name)
            # A page and its English original have one number, so that both lie on the same side.
            pages = {page: number for number, page in enumerate(dict.fromkeys(_page(m.name) for m in members))}
            for member in members:
                file = archive.extractfile(member)
                assert file is not None
                language = "zh" if member.name == _page(member.name) else "en"
                heldout = pages[_page(member.name)] % HELDOUT_EVERY == 0
                yield Document(language, f"{language} {kind}", file.read().decode(errors="replace"), heldout)
    with zipfile.ZipFile(text / "brown" / "brown.zip") as archive:
        for number, name in enumerate(sorted(archive.namelist())):
            if name.count("/") == 1 and len(Path(name).name) == 4:
                words = (word.rpartition("/")[0] for word in archive.read(name).decode().split())
                yield Document("en", "en Brown corpus", " ".join(words), number % HELDOUT_EVERY == 0)
    for kind, folder, files in (("code Python", "stdlib", "*.py"), ("code C", "include", "**/*.h")):
        for number, path in enumerate(sorted(Path(sysconfig.get_path(folder)).glob(files))):
            yield Document("code", kind, path.read_text(errors="replace"), number % HELDOUT_EVERY == 0)
    rows = json.loads((data / "sft/llama_factory/alpaca_zh_demo.json").read_text())
    yield Document("zh", "zh other: instructions", "\n".join("\n".join(row.values()) for row in rows), True)
    talks = [json.loads(path.read_text()) for path in sorted((data / "eval/c3").glob("*.json"))]
    yield Document("zh", "zh other: C3 dialogues", "\n".join(line for t in talks for row in t for line in row[0]), True)


def _page(name: str) -> str:
    return name.replace("_origin", "")


def compare(texts: dict[str, list[str]], encoders: dict[str, Encode]) -> dict[str, dict[str, float]]:
    """{row: {"bytes": its size, encoder: bytes per token}}."""
    table = {}
    for row, group in texts.items():
        size = sum(len(text.encode()) for text in group)
        table[row] = {"bytes": size} | {
            name: size / sum(len(encode(text)) for text in group) for name, encode in encoders.items()
        }
    return table


def speed(ours: Encode, theirs: Encode, texts: list[str], rounds: int) -> tuple[float, float]:
    """(MB/s of cl100k, ours as a share of it): medians over `rounds` rounds of each order, one thread."""
    size = sum(len(text.encode()) for text in texts) / 1e6

    def seconds(encode: Encode) -> float:
        started = time.thread_time()  # of this thread alone: other work on the machine does not count
        for text in texts:
            encode(text)
        return time.thread_time() - started

    seconds(theirs), seconds(ours)  # warm
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(rounds)]
    pairs += [(seconds(theirs), mine) for mine in (seconds(ours) for _ in range(rounds))]
    return size / statistics.median(a for a, _ in pairs), statistics.median(a / b for a, b in pairs)


def chunks(texts: list[str], size: int = 20_000) -> list[str]:
    """About SPEED_BYTES of the texts, cut as documents of `size` characters, as a corpus has them."""
    cut = [text[at : at + size] for text in texts for at in range(0, len(text), size)]
    taken, total = list[str](), 0
    for text in cut:
        if total < SPEED_BYTES:
            taken.append(text)
            total += len(text.encode())
    return taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    everything = list(documents(args.data))
    learning = {k: [d.text for d in everything if d.language == k and not d.heldout] for k in ("zh", "en", "code")}
    ranks, _ = cl100k()

    def build(base: list[bytes]) -> tuple[Tokenizer, float]:
        started = time.perf_counter()
        learned = learn_tokens(learning["zh"], {token: rank for rank, token in enumerate(base)}, CHINESE)
        return Tokenizer(base + learned, VOCABULARY), time.perf_counter() - started

    first, learn_seconds = build(first_tokens(ranks, BASE))
    counts = count_tokens(cl100k_encoding(), learning["en"] + learning["code"])
    used, _ = build(most_used_tokens(ranks, counts, BASE))
    import sentencepiece

    original = sentencepiece.SentencePieceProcessor(model_file=str(args.data / "tokenizer/tokenizer_internlm2.model"))
    heldout: dict[str, list[str]] = {}
    for document in everything:
        if document.heldout:
            heldout.setdefault(document.kind, []).append(document.text)
    for language in ("zh", "en", "code"):
        heldout[f"{language} all"] = [
            d.text for d in everything if d.language == language and d.heldout and "other" not in d.kind
        ]
    encoders: dict[str, Encode] = {
        "cl100k": cl100k_encoding().encode_ordinary,
        "first": first.encode,
        "most_used": used.encode,
        "internlm2": original.encode,
    }
    table = compare(heldout, encoders)
    report: dict[str, object] = {"learn_seconds": round(learn_seconds, 1)}
    zh = sum(len(text) for text in learning["zh"])
    print(f"learned {CHINESE:,} tokens from {zh / 1e6:.1f}M characters of Chinese files in {learn_seconds:.0f} s")
    print(f"\nbytes per token, held-out files{'':13}     bytes  " + "".join(f"{name:>11}" for name in encoders))
    for row, values in table.items():
        print(f"  {row:40} {values['bytes']:>11,}  " + "".join(f"{values[name]:>11.3f}" for name in encoders))
    for name, tokenizer in (("first", first), ("most_used", used)):
        base = len(tokenizer.tokens) - CHINESE
        unreachable = sum(witness(tokenizer, n) is None for n in range(base, len(tokenizer.tokens)))
        figures: dict[str, object] = {
            "ids": tokenizer.encoding.n_vocab,
            "learned": CHINESE,
            "unreachable": unreachable,
            "learned_tokens_by_characters": lengths(tokenizer.tokens[base:]),
        }
        for peer in ("cl100k", "internlm2"):
            figures[f"vs_{peer}"] = {row: round(v[name] / v[peer], 4) for row, v in table.items()}
        report[name] = figures
        versus = figures["vs_cl100k"]
        assert isinstance(versus, dict)
        print(
            f"\n{name}: {figures['ids']:,} ids, {unreachable} learned tokens unreachable; against cl100k: "
            + ", ".join(f"{language} {versus[f'{language} all']:.3f}" for language in ("zh", "en", "code"))
        )
    texts = [text for group in heldout.values() for text in chunks(group)]
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        first.save_huggingface(Path(folder))
        other = AutoTokenizer.from_pretrained(folder)
        wrong = sum(first.decode(first.encode(text)) != text for text in texts)
        differ = sum(other(text, split_special_tokens=True)["input_ids"] != first.encode(text) for text in texts)
    print(
        f"\nround trips that differ: {wrong}, ids that differ in transformers: {differ}, of {len(texts)} pieces of text"
    )
    report |= {"round_trips_wrong": wrong, "transformers_differ": differ, "texts": len(texts)}
    shares = {}
    for language in ("en", "code", "zh"):
        rate, share = speed(first.encode, encoders["cl100k"], chunks(heldout[f"{language} all"]), args.rounds)
        shares[language] = round(share, 3)
        print(f"encoding {language}: cl100k {rate:.1f} MB/s on one thread, ours {share:.3f} of it")
    report["speed_vs_cl100k"] = shares
    print(json.dumps(report))


if __name__ == "__main__":
    main()
