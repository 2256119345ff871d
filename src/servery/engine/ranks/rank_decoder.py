"""The decoder of one of several processes: the same steps in all of them, each with its part of the model."""

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.decoder import Decoder
from servery.engine.device_batch import DeviceBatch, pack, shape_of
from servery.engine.doorbell import Interruption
from servery.engine.kv import KVCache
from servery.engine.packed_arrays import PackedArrays
from servery.engine.parallel.team import Team
from servery.engine.ranks.crew import Crew
from servery.engine.ranks.messages import Forward, Logits


class RankDecoder(Decoder):
    """A part of a model. The first process's has a `crew`, to which it announces what all have to do now.

    What the last stage gives goes back to the first, which has the head.
    """

    part: Decoder
    team: Team
    crew: Crew | None = None
    hidden_size: int

    @classmethod
    def of(cls, part: Decoder, team: Team, config: ModelConfig) -> "RankDecoder":
        """The decoder over the weights of `part`."""
        made = cls.__new__(cls)
        vars(made).update(vars(part))
        made.part, made.team, made.hidden_size = part, team, config.hidden_size
        return made

    def led_by(self, crew: Crew) -> "RankDecoder":
        """The same, telling the crew."""
        self.crew = crew
        return self

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache, interruption: Interruption | None = None) -> Tensor:
        """As `Decoder.forward`; all processes are at the same step, which is not interrupted: nobody could wait for it."""
        if not isinstance(batch, DeviceBatch):
            shape = shape_of(batch)
            arrays = PackedArrays.of(pack(batch), pinned=self.device.type == "cuda")
            if self.crew is not None:
                self.crew.announce(Forward(arrays.places, *shape), arrays)
            batch = DeviceBatch(arrays.on(self.device), shape, arrays)
        return self.run(batch, cache)

    @torch.inference_mode()
    def run(self, batch: DeviceBatch, cache: KVCache) -> Tensor:
        """This process's part of a step that all have been told of; the final hidden states in the first stage."""
        ranks, part = self.team.ranks, self.part
        if ranks.pipeline == 1:
            return part.forward(batch, cache)
        hidden = part.embed(batch.input_ids) if ranks.is_first else self.team.take(self._room(batch.num_tokens))
        hidden = part.through_layers(hidden, batch, cache)
        self.team.pass_on(self._norm(hidden) if ranks.is_last else hidden)
        return self.team.take(self._room(batch.num_tokens)) if ranks.is_first else hidden

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """As `Decoder.logits`."""
        if self.crew is not None and self.team.size > 1:
            self.crew.announce(Logits(len(hidden)))
        return self.part.logits(hidden)

    @torch.inference_mode()
    def own_logits(self, hidden: Tensor) -> Tensor:
        """As `logits`, where all processes ask for the same at the same time."""
        return self.part.logits(hidden)

    @torch.inference_mode()
    def join_logits(self, rows: int) -> None:
        """A follower's part of `logits`: the rows come from the first process."""
        if self.team.ranks.is_first:
            self.part.logits(self._room(rows))

    def _room(self, tokens: int) -> Tensor:
        return torch.empty((tokens, self.hidden_size), dtype=self.dtype, device=self.device)
