"""The tokenizer in Hugging Face's form: byte-level BPE with merges recovered from ranks, and a chat template."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

# The pattern in Oniguruma's dialect: there a quantifier like {1,3}+ is not possessive and $ is the end of a line.
ONIGURUMA_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+\z|\s*[\r\n]|\s+(?!\S)|\s"
)
# A code point that Unicode keeps for internal use. The template writes plain text, save for two kinds of contents whose
# ids would be others than those of `encode_chat`: those that begin with white space that holds a line break, or are
# nothing but white space (it would be joined with the line break before it), and those that hold the name of a special
# token. There it sets the mark in front of the content and of all that could end a name; the tokenizer cuts at the
# former and takes both out again.
MARK = "\ufdd0"
_NAME_END = r"\|>|s>"  # of <|...|>, <s> and </s>
_HEADS = r"\A\n|\Asystem\n|\Auser\n|\Aassistant\n|\Aenvironment\n"  # of what follows a special token
_TEMPLATE = (
    "{%- macro text(t) -%}"
    "{%- if t is not string -%}{{ raise_exception('a content must be a text') }}{%- endif -%}"
    "{%- set lead = t[:(t | length) - (t.lstrip() | length)] -%}"
    "{%- set odd = namespace(is='MARK' in t or '\\n' in lead or '\\r' in lead or (t and not t.strip())) -%}"
    "{%- for name in [NAMES] if name in t -%}{%- set odd.is = true -%}{%- endfor -%}"
    "{%- if odd.is -%}{{ 'MARK' + t | replace('|>', 'MARK|>') | replace('s>', 'MARKs>') }}"
    "{%- else -%}{{ t }}{%- endif -%}"
    "{%- endmacro -%}"
    "{%- macro tool(name) -%}"
    "{%- if name not in ['interpreter', 'plugin'] -%}{{ raise_exception('unknown tool') }}{%- endif -%}"
    "{{ '<|' + name + '|>\\n' }}"
    "{%- endmacro -%}"
    "{%- macro call(c) -%}"
    "{%- set given = c.function.arguments or '{}' -%}"
    "{{ '{\"name\": ' + c.function.name | tojson + ', \"parameters\": ' }}"
    "{%- if given is string -%}{{ given | trim }}{%- else -%}{{ given | tojson }}{%- endif -%}{{ '}' }}"
    "{%- endmacro -%}"
    "{%- macro calls(all) -%}"
    "{%- if all | length > 1 -%}{{ '[' }}{%- endif -%}"
    "{%- for c in all -%}{{ call(c) }}{%- if not loop.last -%}{{ ', ' }}{%- endif -%}{%- endfor -%}"
    "{%- if all | length > 1 -%}{{ ']' }}{%- endif -%}"
    "{%- endmacro -%}"
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- set answers = message.role in ['tool', 'function'] -%}"
    "{%- set role = 'environment' if answers else message.role -%}"
    "{%- set name = 'plugin' if answers else message.name -%}"
    "{%- set single = [{'function': message.function_call}] if message.function_call else [] -%}"
    "{%- set called = message.tool_calls or single -%}"
    "{%- if role not in ['system', 'user', 'assistant', 'environment'] -%}"
    "{{ raise_exception('unknown role') }}"
    "{%- endif -%}"
    "{%- if name and role not in ['system', 'environment'] -%}"
    "{{ raise_exception('only a system or environment message has a name') }}"
    "{%- endif -%}"
    "{%- if (message.action or called) and role != 'assistant' -%}"
    "{{ raise_exception('only an assistant acts') }}"
    "{%- endif -%}"
    "{{- '<|im_start|>' + role -}}"
    "{%- if name -%}{{ ' name=' + tool(name) }}{%- else -%}{{ '\\n' }}{%- endif -%}"
    "{%- set body -%}"
    "{%- if message.content is string or not called -%}{{- text(message.content) -}}{%- endif -%}"
    "{%- if called -%}"
    "{{- '<|action_start|>' + tool('plugin') + text(calls(called)) + '<|action_end|>' -}}"
    "{%- elif message.action -%}"
    "{{- '<|action_start|>' + tool(message.action.name) + text(message.action.content) + '<|action_end|>' -}}"
    "{%- endif -%}"
    "{{- '<|im_end|>' -}}"
    "{%- endset -%}"
    # Transformers' mask of what the assistant wrote, which TRL's assistant_only_loss trains on. No macro may hold it.
    "{%- if role == 'assistant' -%}{%- generation -%}{{- body -}}{%- endgeneration -%}"
    "{%- else -%}{{- body -}}{%- endif -%}"
    "{{- '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def chat_template(names: Iterable[str]) -> str:
    """The template for a vocabulary with special tokens of these names."""
    shown = sorted({"<|spare_" if name.startswith("<|spare_") else name for name in names})
    return _TEMPLATE.replace("NAMES", ", ".join(f"'{name}'" for name in shown)).replace("MARK", MARK)


def write_huggingface(folder: Path, ranks: Mapping[bytes, int], specials: Mapping[str, int]) -> list[Path]:
    """Write `tokenizer.json` and `tokenizer_config.json`; returns the two paths.

    Ids are those of `ilm_ray.data.tokenizer`: of a conversation through the chat template, and of any text through
    `tokenizer(text, split_special_tokens=True)` behind `<s>`, save that U+FDD0 (see MARK) is dropped where a template
    sets it.
    Without that argument transformers turns the names of special tokens in a text into their ids, as for every model.
    """
    letters = byte_letters()
    named = {_written(token, letters): rank for token, rank in ranks.items()}
    # A special token must be in the model's vocabulary, or it would get the next free id instead of its own.
    vocabulary = {**named, **specials}
    assert len(vocabulary) == len(named) + len(specials), "a special token has the name of an ordinary one"
    merges = [(_written(a, letters), _written(b, letters)) for a, b in recover_merges(ranks)]
    # ignore_merges: a piece that is a token is taken whole, as tiktoken does.
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    made.normalizer = normalizers.Replace(Regex(f"{MARK}(?={_NAME_END})"), "")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf"\A{MARK}|(?<={_HEADS}){MARK}"), behavior="removed"),
            pre_tokenizers.Split(Regex(ONIGURUMA_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    # Every document of training began so; servers add it to a text, and not to what a chat template has written.
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", specials["<s>"])]
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "tokenizer.json", folder / "tokenizer_config.json"]
    made.save(str(paths[0]))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template(specials),
    }
    paths[1].write_text(json.dumps(config, indent=1), encoding="utf-8")
    return paths


def recover_merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Every pair of tokens that makes up another, lowest rank of the result first: the limits of rank-based merging."""
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        for cut in range(1, len(token)):
            if token[:cut] in ranks and token[cut:] in ranks:
                yield token[:cut], token[cut:]


def _written(token: bytes, letters: Mapping[int, str]) -> str:
    return "".join(letters[byte] for byte in token)


def byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for every byte, which byte-level BPE files are written in."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
