"""What chooses tokens: the native kernels where the engine computes with them, else torch."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from servery.engine import request, sampler
from servery.engine.native.library import NativeContext
from servery.engine.native.sampling import NativeSampler
from servery.engine.sampler import Sampled, SamplingRow


class Sampler(Protocol):
    """What `sampler.py` defines; both draw the same tokens, but for those that rounding cannot tell apart."""

    def sample(self, logits: Tensor, rows: Sequence[SamplingRow]) -> list[Sampled]:
        """Choose one token for each row of `logits` [R, V] (left unchanged); R must equal len(rows)."""
        ...

    def draw(self, logits: Tensor, rows: Sequence[SamplingRow]) -> list[Sampled]:
        """As `sample`, without log probabilities; `logits` are float32."""
        ...

    def next_tokens(self, logits: Tensor, sequences: list[request.Sequence]) -> list[int] | None:
        """A token for each sequence, at once where parameters alone decide; None: `sample` has to be asked."""
        ...

    def warped_probs(self, logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
        """The distribution [R, V] that `sample` draws from; one-hot for greedy rows, NaN where logits are unusable."""
        ...


class TorchSampler:
    """The oracle."""

    sample = staticmethod(sampler.sample)
    draw = staticmethod(sampler.draw)
    warped_probs = staticmethod(sampler.warped_probs)

    def next_tokens(self, logits: Tensor, sequences: list[request.Sequence]) -> list[int] | None:
        """Always None: every row is made anew."""
        return None


TORCH = TorchSampler()


def sampler_of(native: NativeContext | None) -> Sampler:
    """The sampler of an engine that computes with `native`."""
    return TORCH if native is None else NativeSampler(native)
