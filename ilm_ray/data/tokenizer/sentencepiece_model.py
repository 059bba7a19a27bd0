"""`tokenizer.model`: sentencepiece's own file, as InternLM2 was released with."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from ilm_ray.base.errors import UserError
from ilm_ray.data.tokenizer.documented import SENTENCEPIECE, Added, Documented, read_bounded

SPACE = "\u2581"  # stands for a space in a piece
_ROLES = {"bos_token": "bos_id", "eos_token": "eos_id", "unk_token": "unk_id"}


class SentencePieceVocabulary:
    """Every stretch of text between two special tokens gets the space in front that the model may ask for, as in the
    released InternLM2. Raises UserError where the file is damaged."""

    prefix_everywhere = True

    def __init__(self, folder: Path, documented: Documented) -> None:
        path = folder / SENTENCEPIECE
        data = read_bounded(path)
        try:
            proto = ModelProto.FromString(data)
            self._start = SentencePieceProcessor(model_proto=data)
            proto.normalizer_spec.add_dummy_prefix = False
            self._onward = SentencePieceProcessor(model_proto=proto.SerializeToString())
            pieces = self._start.get_piece_size()
        except (DecodeError, RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{path} is no sentencepiece model ({str(error)[:200]}); copy it anew") from None
        self.added = {name: added for name, added in documented.added.items() if added.id >= 0}
        for number in range(pieces):
            name = self._start.id_to_piece(number)
            if self._start.is_control(number) and number not in {added.id for added in self.added.values()}:
                self.added[name] = Added(number, True)
        self._of_id = {added.id: name for name, added in self.added.items()}
        self.size = max([pieces, *(number + 1 for number in self._of_id)])
        roles = ((key, getattr(self._start, name)()) for key, name in _ROLES.items())
        self.default_tokens = {key: self._start.id_to_piece(number) for key, number in roles if number >= 0}
        self.begins = documented.begins if documented.begins is not None else "bos_token" in self.default_tokens

    def id_of(self, name: str) -> int | None:
        if name in self.added:
            return self.added[name].id
        number = self._start.piece_to_id(name)
        return number if self._start.id_to_piece(number) == name and number not in self._of_id else None

    def names(self) -> Iterator[tuple[str, int]]:
        yield from ((self._of_id.get(i) or self._start.id_to_piece(i), i) for i in range(self._start.get_piece_size()))

    def piece(self, number: int) -> str:
        """As `JsonVocabulary.piece`: the model's own name, be it another than that of the added token."""
        in_model = number < self._start.get_piece_size()
        return self._start.id_to_piece(number).replace(SPACE, " ") if in_model else self._of_id[number]

    def encode(self, text: str, at_start: bool) -> list[int]:
        """As `JsonVocabulary.encode`. Added tokens that are not special are found in a text."""
        model, plain = self._start if at_start else self._onward, [n for n, a in self.added.items() if not a.special]
        if not plain:
            return model.encode(text)
        ids = list[int]()
        for part in re.split("(" + "|".join(map(re.escape, sorted(plain, key=len, reverse=True))) + ")", text):
            if part in self.added and not self.added[part].special:
                ids.append(self.added[part].id)
            elif part:
                ids += model.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; added tokens as their names."""
        text, waiting = list[str](), list[int]()
        for number in [*ids, -1]:
            if number >= 0 and number not in self._of_id:
                waiting.append(number)
                continue
            if waiting:
                text.append((self._onward if text else self._start).decode(waiting))
                waiting = []
            text.append(self._of_id.get(number, ""))
        return "".join(text)

    def byte_lengths(self) -> np.ndarray:
        lengths, model = np.zeros(self.size, np.int64), self._start
        for number in range(model.get_piece_size()):
            if model.is_byte(number):
                lengths[number] = 1
            elif not (model.is_control(number) or model.is_unknown(number) or model.is_unused(number)):
                lengths[number] = len(model.id_to_piece(number).replace(SPACE, " ").encode())
        for name, added in self.added.items():
            lengths[added.id] = 0 if added.special else len(name.encode())
        return lengths
