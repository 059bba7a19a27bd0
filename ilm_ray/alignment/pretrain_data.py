"""Pre-training data in the mix of SFT and PPO: long documents and repositories (report sections 4.1, 4.4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ilm_ray.alignment.repositories import SOURCE, open_repositories
from ilm_ray.base.errors import UserError
from ilm_ray.config import Config
from ilm_ray.data.tokens.mixture import Mixture, present_shares
from ilm_ray.data.tokens.shards import TokenSource
from ilm_ray.training.pretrain import long_documents, open_sources

REPOSITORY_SHARE = 0.5  # of the data, where no setting names a mixture; the report names none
LONG_FROM = 4096  # tokens: of sources that the stage `long_text` did not judge, documents from here on are long


@dataclass(frozen=True)
class PretrainMix:
    """Sequences of `context` tokens, drawn from long documents; every rank opens it for itself."""

    folder: Path  # a tokens stage
    shares: dict[str, float]
    context: int
    repositories: Path | None = None  # shards of the source `repositories`
    marks: Path | None = None  # a stage `long_text` over the same tokens

    def open(self, seed: int, sequences: int = 0) -> Mixture:
        """The mixture; `sequences`: how many will be drawn. A source with too few long documents gives all of its own,
        and the mixture's notes say so. Raises UserError where a source holds no token."""
        sources = self.sources()
        marks = long_documents(self.marks, sources) if self.marks is not None else {}
        if self.repositories is not None:
            marks[SOURCE] = sources[SOURCE].lengths > 0  # made to be long: files of a repository, one after the other
        return Mixture(sources, self.shares, self.context, seed, 0.0, LONG_FROM, marks, sequences)

    def sources(self) -> dict[str, TokenSource]:
        """Name -> tokens."""
        more = {} if self.repositories is None else {SOURCE: TokenSource(self.repositories)}
        return open_sources(self.folder, "train") | more


def pretrain_mix(config: Config, mixture: Mapping[str, float] | None, context: int, run_dir: Path) -> PretrainMix:
    """The mix of a run. mixture: source -> share; None: the last phase's sources, and for REPOSITORY_SHARE of all the
    repositories, where SFT has tokenised some.

    Raises UserError where a mixture names a source without tokens.
    """
    tokens, marks = run_dir / "tokens", run_dir / "long_text"
    sources, repositories = open_sources(tokens, "train"), open_repositories(run_dir)
    there = {name for name, source in sources.items() if source.total_tokens} | ({SOURCE} if repositories else set())
    if mixture is None:
        shares = present_shares(dict(config.pretrain.phases[-1].mixture), sources)
        if repositories is not None:
            scale = (1 - REPOSITORY_SHARE) / sum(shares.values())
            shares = {name: share * scale for name, share in shares.items()} | {SOURCE: REPOSITORY_SHARE}
    elif absent := sorted(mixture.keys() - there):
        raise UserError(
            f"pretrain_mixture names {', '.join(absent)}, and the run holds no token of that (it has "
            f"{', '.join(sorted(there))}); give the data stages such data, or name what is there"
        )
    else:
        shares = dict(mixture)
    found = run_dir / "sft" / SOURCE if SOURCE in shares else None
    return PretrainMix(tokens, shares, context, found, marks if marks.is_dir() else None)
