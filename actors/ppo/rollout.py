"""The rollout group: an engine a rank, and the rule which weights it may serve.

An engine serves nothing until it has received weights, compared every tensor with the sender's digest, and found that
it holds the weights that it loaded; before each batch it looks at its weights again.
"""

import torch

from actors.group import Figures, timed
from actors.ppo.engines import Engine, RolloutSettings, TorchEngine, VllmEngine
from actors.ppo.weights import WeightMessage, checksum, differing
from ilm_ray.alignment.ppo.experience import Prompt, Rollouts


class Rollout:
    """One engine."""

    def __init__(self, rank: int, world: int, settings: RolloutSettings) -> None:
        self.rank, self.settings = rank, settings
        self.version: int | None = None  # None: no verified weights, no service
        self.checksum = ""
        self.held: dict[str, str] = {}  # digests of the engine's weights when they were verified

    @timed
    def build(self) -> tuple[None, Figures]:
        self.engine: Engine = (VllmEngine if self.settings.backend == "vllm" else TorchEngine)(self.settings)
        return None, {}

    @timed
    def join_channel(self, place: tuple[str, int], first: int, members: int) -> tuple[None, Figures]:
        """Join the channel that weights come through, from member `first` on: one for each GPU of the engine."""
        self.engine.join_channel(place, first, members)
        return None, {}

    @timed
    def load_weights(self, message: WeightMessage, version: int, expected: str) -> tuple[None, Figures]:
        """Load a version of the weights; `expected` is the checksum at the sender.

        Raises RuntimeError where another version arrives, where a tensor arrives changed, or where the engine does not
        hold the weights that it loaded; it serves nothing then.
        """
        self.version = None
        announced = checksum(message.digests)
        if message.version != version or announced != expected:
            raise RuntimeError(
                f"weights of version {message.version} with checksum {announced} arrived, "
                f"version {version} with {expected} was announced"
            )
        arrived = self.engine.load(message)
        if wrong := differing(arrived.whole, message.digests):
            raise RuntimeError(f"weights of version {version} changed on their way: {wrong}")
        held = self.engine.held()
        if wrong := differing(held.digests, held.expected(arrived)):
            raise RuntimeError(f"the engine does not hold the weights of version {version} that it loaded: {wrong}")
        self.held, self.version, self.checksum = held.digests, version, announced
        return None, {}

    @timed
    def sleep(self) -> tuple[None, Figures]:
        """Leave the device to others. A sleeping engine has no weights: it serves again after `load_weights`."""
        self.version = None
        self.engine.sleep()
        return None, {}

    @timed
    def status(self) -> tuple[None, Figures]:
        """Version and checksum of the served weights."""
        return None, {"version": self.version, "checksum": self.checksum}

    @timed
    def rollout(self, prompts: list[Prompt], version: int, seed: int) -> tuple[Rollouts, Figures]:
        """Answer prompts with the weights of `version`, no other."""
        if self.version != version:
            raise RuntimeError(f"weights of version {version} are asked for, verified ones are {self.version}")
        if wrong := differing(self.engine.held().digests, self.held):
            self.version = None
            raise RuntimeError(f"the engine's weights of version {version} changed after they were loaded: {wrong}")
        # There may be more engines than prompts.
        answers = self.engine.generate([p.ids for p in prompts], self.settings, seed) if prompts else []
        tokens = sum(len(ids) for ids, _ in answers)
        behaviour = [torch.tensor(logprobs) for _, logprobs in answers]
        return Rollouts(prompts, [ids for ids, _ in answers], behaviour, version), {"tokens": tokens}
