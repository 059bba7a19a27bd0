"""The tokenizer in Hugging Face's form: byte-level BPE with merges recovered from ranks, and a chat template."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from ilm_ray.errors import UserError

# cl100k's pattern in Oniguruma's dialect: there a quantifier like {1,3}+ is not possessive and $ is the end of a line.
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
    r"\s+(?!\S)|\s"
)
ONIGURUMA_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]|\s+(?!\S)|\s"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_huggingface(
    folder: Path, ranks: Mapping[bytes, int], pattern: str, specials: Mapping[str, int]
) -> list[Path]:
    """Write `tokenizer.json` and `tokenizer_config.json`; returns the two paths.

    The ids of any text are those of `ilm_ray.tokenizer.Tokenizer`, but for the names of special tokens in it:
    transformers turns them into special ids, as it does for every model.
    """
    if pattern != CL100K_PATTERN:
        raise UserError("only a tokenizer that splits text as cl100k does can be written in Hugging Face's form")
    letters = _byte_letters()
    named = {_written(token, letters): rank for token, rank in ranks.items()}
    # A special token must be in the model's vocabulary, or it would get the next free id instead of its own.
    vocabulary = {**named, **specials}
    assert len(vocabulary) == len(named) + len(specials), "a special token has the name of an ordinary one"
    merges = [(_written(a, letters), _written(b, letters)) for a, b in recover_merges(ranks)]
    # ignore_merges: a piece that is a token is taken whole, as tiktoken does.
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(ONIGURUMA_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "tokenizer.json", folder / "tokenizer_config.json"]
    made.save(str(paths[0]))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    paths[1].write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    return paths


def recover_merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Every pair of tokens that makes up another, lowest rank of the result first: what rank-based merging can do."""
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        for cut in range(1, len(token)):
            if token[:cut] in ranks and token[cut:] in ranks:
                yield token[:cut], token[cut:]


def _written(token: bytes, letters: Mapping[int, str]) -> str:
    return "".join(letters[byte] for byte in token)


def _byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for every byte, which byte-level BPE files are written in."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
