"""The conditional reward model's input (report section 4.2.1): a system prompt per preference domain, a final token.

Only the reward model sees the condition: policy, critic and reference work on the sequence without it.
"""

from ilm_ray.errors import UserError
from ilm_ray.tokenizer.chatml import encode_chat
from ilm_ray.tokenizer.tokenizer import Tokenizer


def condition_prefix(tokenizer: Tokenizer, system_prompt: str) -> list[int]:
    """Tokens of the system message that says what to score, without the document's begin token."""
    return encode_chat(tokenizer, [{"role": "system", "content": system_prompt}]).ids[1:]


def conditioned(prefix: list[int], ids: list[int], reward_id: int, context: int) -> list[int]:
    """begin token + condition + conversation + the token at which the reward is read. An empty prefix: no condition.

    Of a conversation that makes more than `context` tokens, the beginning is left out: the answer stands at its end.
    """
    room = context - len(prefix) - 2
    if room < 1:
        raise UserError(
            f"reward.context={context} has no room for a conversation behind a condition of {len(prefix)} tokens; "
            f"raise it or shorten reward.system_prompts"
        )
    return ids[:1] + prefix + ids[1:][-room:] + [reward_id]
