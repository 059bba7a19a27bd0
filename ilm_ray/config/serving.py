"""Settings of `jobs/serve.py`."""

from pydantic import Field

from ilm_ray.config.section import Context, Count, CountOrZero, Precision, Seconds, Section


class ServeConfig(Section):
    """An OpenAI-compatible endpoint with a chat page; see docs/serving.md."""

    model: str | None = None  # a stage of a run (runs/demo/ppo) or an exported folder
    # Only this machine reaches it unless `host` says otherwise; it asks for no key, so another host should be a network
    # that you trust.
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)  # 0: a free one
    name: str | None = None  # of the model in requests; None: its folder's
    # Tokens of prompt and answer together; None: as many as the model was trained on, on a CPU at most 4,096. More than
    # that needs a model whose config.json names a RoPE scaling.
    context: Context | None = None
    dtype: Precision | None = None  # None: bf16 on GPUs, fp32 on CPUs
    cache_gib: Count = 1  # keys and values, on a CPU
    gpus: CountOrZero | None = None  # of this node, several share the model; None: one where there is one
    deadline_s: Seconds = 900.0  # until it answers
