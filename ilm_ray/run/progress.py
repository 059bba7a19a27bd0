"""Progress with an ETA on stderr."""

import sys
import time


class Progress:
    """`Progress("pretrain", 360).update(10, loss=3.2)` prints `pretrain 10/360 3% ETA 1:02 loss=3.2`.

    At most one line every `every_s` seconds, plus the last; plain lines, so that a job's log stays readable.
    """

    def __init__(self, name: str, total: int, done: int = 0, every_s: float = 5.0) -> None:
        self.name, self.total, self.every_s = name, total, every_s
        self._first, self._started, self._shown = done, time.monotonic(), 0.0

    def update(self, done: int, **figures: float | int | str) -> None:
        now = time.monotonic()
        if done < self.total and now - self._shown < self.every_s:
            return
        self._shown = now
        fresh = done - self._first
        eta = (now - self._started) / fresh * (self.total - done) if fresh > 0 else float("nan")
        shown = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items())
        left = f"ETA {int(eta // 60)}:{int(eta % 60):02d}" if eta == eta else "ETA ?"
        share = 100 * done // max(self.total, 1)
        print(f"{self.name} {done}/{self.total} {share}% {left} {shown}".rstrip(), file=sys.stderr, flush=True)
