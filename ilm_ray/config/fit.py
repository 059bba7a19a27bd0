"""Does a configuration fit the machines at hand? Asked before anything starts."""

from ilm_ray.config.schema import Config
from ilm_ray.config.training import ModelConfig
from ilm_ray.errors import UserError

# Mixed precision with AdamW: fp32 master and two moments, bf16 parameters and gradients, 4+4+4+2+2.
TRAINING_BYTES_PER_PARAMETER = 16


def parameter_count(model: ModelConfig, vocab_size: int) -> int:
    """Parameters of InternLM2 with an untied head."""
    heads = model.kv_heads * model.queries_per_kv
    attention = model.hidden * (heads + 2 * model.kv_heads) * model.head_dim + heads * model.head_dim * model.hidden
    block = attention + 3 * model.hidden * model.mlp_hidden + 2 * model.hidden
    return model.layers * block + 2 * vocab_size * model.hidden + model.hidden


def check_fits(config: Config, cpus: float, gpus: float, memory_gib: float) -> None:
    """Raise UserError where the preset cannot run on this cluster (memory in GiB, over all nodes)."""
    parameters = parameter_count(config.model, config.tokenizer.vocab_size)
    need = parameters * TRAINING_BYTES_PER_PARAMETER / 2**30
    if gpus == 0 and need > memory_gib:
        raise UserError(
            f"preset '{config.preset}' does not fit: training {parameters / 1e9:.1f}B parameters takes about "
            f"{need:.0f} GiB and this cluster offers {memory_gib:.0f} GiB and no GPU; "
            "use --preset nano or submit to a larger cluster"
        )
    workers = config.pretrain.workers
    if gpus and gpus < workers:
        raise UserError(f"pretrain.workers={workers} but the cluster has {gpus:.0f} GPUs; lower pretrain.workers")
    if not gpus and cpus < workers:
        raise UserError(f"pretrain.workers={workers} but Ray has {cpus:.0f} CPUs; lower it or raise ray.num_cpus")
