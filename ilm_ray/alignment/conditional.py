"""The conditional reward model's input (report section 4.2.1): a system prompt per preference domain, a final token.

Only the reward model sees the condition: policy, critic and reference work on the sequence without it.
"""

from ilm_ray.tokenizer.chatml import encode_chat
from ilm_ray.tokenizer.tokenizer import Tokenizer


def condition_prefix(tokenizer: Tokenizer, system_prompt: str) -> list[int]:
    """Tokens of the system message that says what to score, without the document's begin token."""
    return encode_chat(tokenizer, [{"role": "system", "content": system_prompt}]).ids[1:]


def conditioned(prefix: list[int], ids: list[int], reward_id: int) -> list[int]:
    """begin token + condition + conversation + the token at which the reward is read. An empty prefix: no condition."""
    return ids[:1] + prefix + ids[1:] + [reward_id]
