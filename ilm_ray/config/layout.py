"""The layout of a model over ranks: one value, checked before anything is started."""

import math
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from ilm_ray.base.errors import UserError
from ilm_ray.config.section import Count

Share = Literal["replica", "partial", "full"]  # whole on every rank; split over a group of ranks; split over all

# They compute weights' gradients in a step of their own. Seen in torch 2.13: where FSDP2 has split parameters again
# since the forward, some layers have no gradient and others a wrong one, without an error; with whole parameters all
# are right.
_ZERO_BUBBLE = ("zero_bubble", "interleaved_zero_bubble", "zbv_zero_bubble", "dualpipev")


class Size(Protocol):
    """The numbers of a model that a layout depends on."""

    @property
    def layers(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def mlp_hidden(self) -> int: ...


class Layout(BaseModel):
    """Degrees of parallelism, and where parameters, gradients and optimizer states live (report section 2.1).

    The three states are spread over the dp * cp ranks that hold the same weights. FSDP2 keeps the optimizer's share of
    a parameter and of its gradient in one place, so `optimizer` decides, `parameters` may be less split than that
    while they are used, and `gradients` either are split alike or stay whole until the last micro-batch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dp: Count | None = None  # None: what the number of ranks leaves
    tp: Count = 1
    sequence_parallel: bool = False  # with tp: activations between attention and MLP are split over its ranks too
    pp: Count = 1
    schedule: Literal["gpipe", "1f1b", "interleaved"] = "1f1b"
    virtual_stages: Count = 1  # stages a rank of the pipeline holds; more than one with `interleaved` only
    cp: Count = 1
    # ulysses: all-to-all from tokens to heads; gather: all keys and values to every rank, no limit on heads; ring: they
    # travel from rank to rank, never all in one place
    cp_kind: Literal["ulysses", "gather", "ring"] = "ulysses"
    parameters: Share = "full"
    gradients: Share = "full"
    optimizer: Share = "full"
    shard_group: Count = 8  # ranks that a `partial` state is split over: best those of one node
    # none: the backward finds all it needs; selective: norms, rotation, SwiGLU are computed again; full: whole blocks
    recompute: Literal["none", "selective", "full"] = "none"
    compile: bool = False  # torch.compile for each block
    prefetch: Count = 1  # blocks whose parameters are gathered while one computes: more overlap, more memory

    @field_validator("schedule", mode="before")
    @classmethod
    def _refuse_zero_bubble(cls, schedule: object) -> object:
        if schedule in _ZERO_BUBBLE:
            raise UserError(
                f"layout: schedule={schedule} is refused: in torch 2.13 zero-bubble schedules lose gradients where "
                "FSDP2 splits parameters, without an error; use gpipe, 1f1b or interleaved"
            )
        return schedule

    @model_validator(mode="after")
    def _check_pipeline(self) -> "Layout":
        if (self.virtual_stages > 1) != (self.schedule == "interleaved"):
            raise UserError(
                f"layout: schedule={self.schedule} with virtual_stages={self.virtual_stages} does not fit; "
                "interleaved needs at least 2 stages a rank, the others have 1"
            )
        if self.virtual_stages > 1 and self.pp == 1:
            raise UserError("layout: interleaved is a schedule of a pipeline; set pp above 1")
        if self.pp > 1 and self.gradients != "replica":
            raise UserError(
                f"layout: gradients={self.gradients} with pp={self.pp} cannot be had: torch's pipeline schedules "
                "keep whole gradients until the last micro-batch; set gradients=replica"
            )
        return self

    @model_validator(mode="after")
    def _check_states(self) -> "Layout":
        order = ("replica", "partial", "full")
        if order.index(self.parameters) > order.index(self.optimizer):
            raise UserError(
                f"layout: parameters={self.parameters} with optimizer={self.optimizer} cannot be had: FSDP2 keeps a "
                "parameter where its optimizer state is; split the optimizer at least as far as the parameters"
            )
        if self.gradients not in ("replica", self.optimizer):
            raise UserError(
                f"layout: gradients={self.gradients} with optimizer={self.optimizer} cannot be had: FSDP2 reduces a "
                f"gradient to the share its optimizer state has; set gradients to {self.optimizer} or replica"
            )
        return self

    @model_validator(mode="after")
    def _check_sequence_parallel(self) -> "Layout":
        if self.sequence_parallel and self.tp == 1:
            raise UserError("layout: sequence_parallel splits activations over tp ranks; set tp above 1 or turn it off")
        return self

    @property
    def stages(self) -> int:
        """Stages of the pipeline over all its ranks."""
        return self.pp * self.virtual_stages

    @property
    def replica_ranks(self) -> int:
        """Ranks that share one share of the batch: pp * cp * tp."""
        return self.pp * self.cp * self.tp

    @property
    def row_unit(self) -> int:
        """The number of tokens to whose multiple a micro-batch is padded."""
        halves = 2 if self.cp > 1 and self.cp_kind != "ulysses" else 1  # a slice is two chunks
        return self.cp * math.lcm(halves, self.tp if self.sequence_parallel else 1)

    @property
    def sharding_ranks(self) -> int:
        """Ranks that hold the same weights, so that states can be split over them: dp * cp."""
        assert self.dp is not None
        return self.dp * self.cp

    @property
    def optimizer_group(self) -> int:
        """Ranks that a parameter's optimizer state is split over."""
        return {"replica": 1, "partial": self.shard_group, "full": self.sharding_ranks}[self.optimizer]

    def on(self, ranks: int) -> "Layout":
        """The layout with `dp` filled in for `ranks`. Raises UserError where it does not fit."""
        if ranks % self.replica_ranks or (self.dp is not None and ranks != self.dp * self.replica_ranks):
            raise UserError(
                f"layout: {ranks} workers are not dp * pp * cp * tp = {self.dp or 'any'} * {self.pp} * {self.cp} * "
                f"{self.tp}; change their number or a degree"
            )
        layout = self.model_copy(update={"dp": ranks // self.replica_ranks})
        partial = "partial" in (self.parameters, self.gradients, self.optimizer)
        if partial and (layout.sharding_ranks % self.shard_group or not 1 < self.shard_group < layout.sharding_ranks):
            raise UserError(
                f"layout: shard_group={self.shard_group} must divide dp * cp = {layout.sharding_ranks} and lie between "
                "1 and that; change it, or say full or replica instead of partial"
            )
        return layout

    def require_model(self, size: Size, vocab_size: int) -> None:
        """Raise UserError unless a model of this size can be split so."""
        for name, value in (("kv_heads", size.kv_heads), ("mlp_hidden", size.mlp_hidden), ("vocab_size", vocab_size)):
            if value % self.tp:
                raise UserError(f"layout: tp={self.tp} must divide {name}={value}; lower tp")
        if self.cp_kind == "ulysses" and size.kv_heads % (self.tp * self.cp):
            raise UserError(
                f"layout: cp_kind=ulysses splits heads, so tp * cp = {self.tp * self.cp} must divide "
                f"kv_heads={size.kv_heads}; lower one of them or set cp_kind=gather or ring"
            )
        if self.stages > size.layers:
            raise UserError(
                f"layout: pp * virtual_stages = {self.stages} stages for {size.layers} layers; every stage needs one"
            )

    def require_batch(self, where: str, sequences: int, at_once: int) -> None:
        """Raise UserError unless a step of `sequences`, at most `at_once` in a micro-batch, can be shared out.

        where: the owner of the sequences, for the message.
        """
        assert self.dp is not None
        if sequences % self.dp:
            raise UserError(
                f"{where}: its {sequences} sequences a step cannot be shared out to dp={self.dp}; make batch_tokens a "
                "multiple of context * dp"
            )
        micros = -(-sequences // self.dp // at_once)
        if self.pp > 1 and self.schedule != "gpipe" and micros < self.pp:
            raise UserError(
                f"{where}: {micros} micro-batches a step do not fill a pipeline of pp={self.pp}; lower micro_tokens, "
                "raise batch_tokens or lower pp"
            )
        if self.schedule == "interleaved" and micros % max(1, micros // self.pp):
            raise UserError(
                f"{where}: interleaved needs a multiple of pp={self.pp} micro-batches a step, not {micros}; change "
                "micro_tokens or batch_tokens"
            )
