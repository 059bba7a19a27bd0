"""The peer's side of `web_text_peer.py`, run by the Python of the peer's own environment (datatrove 0.10.1).

    python datatrove_peer.py CRAWL FOLDER WORKERS

WARC -> extracted/ -> filters -> filtered/ -> MinHash (14 x 9, word 5-grams, 64 bits) -> deduplicated/, all JSON Lines.
"""

import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig

BANDS = 14


def main(crawl: str, folder: str, workers: int) -> None:
    files = len(list(Path(crawl).glob("*/*.warc.gz")))
    minhash = MinhashConfig(n_grams=5, num_buckets=BANDS, hashes_per_bucket=9, hash_config=HashConfig(precision=64))
    steps = [
        # One chain from page to filtered text, without a second reading in between. What it writes after extraction
        # is what F1 is measured on; our side writes that too. All languages: no language filter, and the English
        # stop words, which nothing but English passes, are not asked for. Lines without a full stop stay.
        (
            [
                WarcReader(crawl, glob_pattern="*/*.warc.gz"),
                Trafilatura(favour_precision=False, timeout=20),
                JsonlWriter(f"{folder}/extracted"),
                GopherRepetitionFilter(),
                GopherQualityFilter(min_stop_words=None),
                C4QualityFilter(filter_no_terminal_punct=False),
                JsonlWriter(f"{folder}/filtered"),
            ],
            files,
        ),
        ([JsonlReader(f"{folder}/filtered"), MinhashDedupSignature(f"{folder}/signatures", config=minhash)], files),
        ([MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=minhash)], BANDS),
        ([MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=minhash)], 1),
        (
            [
                JsonlReader(f"{folder}/filtered"),
                MinhashDedupFilter(f"{folder}/remove"),
                JsonlWriter(f"{folder}/deduplicated"),
            ],
            files,
        ),
    ]
    for number, (chain, tasks) in enumerate(steps):
        LocalPipelineExecutor(chain, tasks=tasks, workers=workers, logging_dir=f"{folder}/logs-{number}").run()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
