"""The model that a training leaves: the same whatever the pieces, and every rank gives a sign of life for each."""

import json
import os
from pathlib import Path

import pytest

from ilm_ray.training.checkpoints import final
from ilm_ray.training.faults.watch import Watch
from ilm_ray.training.loop import train
from tests.processes import run_ranks
from tests.training.test_loop import SETTINGS, Toy

pytestmark = pytest.mark.ranks


class Counting(Watch):
    """Counts the pieces that its rank reports."""

    pieces = 0

    def at(self, step: int, doing: str) -> None:
        self.pieces += doing == "writing the model"
        super().at(step, doing)


def run(folder: str, piece_bytes: int) -> None:
    path, rank = Path(folder), os.environ["RANK"]
    final.PIECE_BYTES = piece_bytes
    watch = Counting(path / "watch", int(rank), 60.0)
    train(Toy(), SETTINGS, path, lambda row: None, watch)
    (path / f"pieces-{rank}.json").write_text(json.dumps(watch.pieces))


@pytest.mark.parametrize("ranks", [1, 2])
def test_pieces_of_any_size_make_the_same_file_and_every_rank_reports_each(tmp_path: Path, ranks: int) -> None:
    files, counts = [], []
    for piece_bytes in (2**30, 8_000, 1):
        folder = tmp_path / str(piece_bytes)
        folder.mkdir()
        run_ranks(run, ranks, str(folder), piece_bytes)
        files.append((folder / "model" / "model.safetensors").read_bytes())
        counts.append([json.loads((folder / f"pieces-{rank}.json").read_text()) for rank in range(ranks)])
    assert files[0] == files[1] == files[2]
    weights = len(list(Toy().build().parameters()))
    assert counts[0] == [1] * ranks and counts[2] == [weights] * ranks and 1 < counts[1][0] < weights
