"""JSON Lines in many small zstd frames: any reader of .jsonl.zst can read them, and one row costs one frame."""

from pathlib import Path

import numpy as np
import orjson
import zstandard

from ilm_ray.base.jsonl import JsonObject, decoded, encoded

ROWS_PER_FRAME = 128


class FramedWriter:
    """Rows to an open binary file; `close` returns int64 byte offsets of the frames and of the end."""

    def __init__(self, path: Path) -> None:
        self._out = path.open("wb")
        self._compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        self._rows, self._offsets = list[bytes](), [0]

    def write(self, row: JsonObject) -> None:
        self._rows.append(encoded(row) + b"\n")
        if len(self._rows) == ROWS_PER_FRAME:
            self._flush()

    def close(self) -> np.ndarray:
        if self._rows or len(self._offsets) == 1:  # a file without rows is one empty frame, not a cut file
            self._flush()
        self._out.close()
        return np.array(self._offsets, dtype=np.int64)

    def _flush(self) -> None:
        frame = self._compressor.compress(b"".join(self._rows))
        self._out.write(frame)
        self._offsets.append(self._offsets[-1] + len(frame))
        self._rows.clear()


def read_framed_row(path: Path, offsets: np.ndarray, number: int) -> JsonObject:
    """Row `number` of a file that `FramedWriter` wrote. Raises ValueError where the file is damaged."""
    frame, within = divmod(number, ROWS_PER_FRAME)
    with path.open("rb") as raw:
        raw.seek(int(offsets[frame]))
        packed = raw.read(int(offsets[frame + 1] - offsets[frame]))
    try:
        row: JsonObject = decoded(zstandard.decompress(packed).split(b"\n")[within])
    except (zstandard.ZstdError, IndexError, orjson.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged in frame {frame}: {error}") from None
    return row
