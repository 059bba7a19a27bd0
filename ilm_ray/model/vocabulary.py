"""More rows in a model's vocabulary, for tokens that it never saw."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ilm_ray.base.errors import UserError
from ilm_ray.model.weights import load_shape, new_internlm2, read_about

ROWS = 64  # the number of rows is a multiple of it, so that tensor parallelism can split them


def enlarge_vocabulary(source: Path, out: Path, tokens: int) -> int:
    """Write the model in `source` into `out` with rows for `tokens` tokens; returns their number.

    A new row is the mean of those that there are, in the embedding and in the head: a new token begins as the average
    one. One tensor is in memory at a time. Raises UserError where the model cannot be read.
    """
    shape = load_shape(source)
    rows = -(-tokens // ROWS) * ROWS
    path = source / "model.safetensors"
    try:
        with safe_open(path, framework="pt") as file:

            def enlarged(name: str) -> torch.Tensor:
                tensor: torch.Tensor = file.get_tensor(name)
                if name not in ("model.tok_embeddings.weight", "output.weight"):
                    return tensor
                mean = tensor.mean(0, dtype=torch.float32).to(tensor.dtype)
                return torch.cat([tensor, mean.expand(rows - len(tensor), -1)])

            like = {}
            for name in list(file.keys()):
                size, dtype = list(file.get_slice(name).get_shape()), file.get_slice(name).get_dtype()
                size[0] = rows if name in ("model.tok_embeddings.weight", "output.weight") else size[0]
                like[name] = torch.empty(size, dtype=_DTYPES[dtype], device="meta")
            with new_internlm2(out, replace(shape, vocab_size=rows), like, read_about(source)) as written:
                for name in written.order:
                    written.write(name, enlarged(name))
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); copy the folder anew") from None
    return rows


_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
