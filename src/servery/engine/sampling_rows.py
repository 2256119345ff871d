"""What the sampler is told about the next tokens of a sequence."""

from weakref import WeakKeyDictionary

from servery.engine.penalties import TokenHistory
from servery.engine.request import Sequence
from servery.engine.sampler import SamplingRow
from servery.engine.sampling import TORCH, Sampler


class SamplingRows:
    """Makes sampling rows for a sampler; counts a sequence's tokens for its penalties once, however many steps it takes."""

    def __init__(self, sampler: Sampler = TORCH) -> None:
        self.sampler = sampler
        self._histories: WeakKeyDictionary[Sequence, TokenHistory] = WeakKeyDictionary()

    def row(self, sequence: Sequence, drafts: list[int]) -> SamplingRow:
        """The row for the token after `drafts`, which count as generated."""
        tokens, history = sequence.tokens, None
        if sequence.params.has_penalties:
            history = self._history(sequence)
            if drafts:
                tokens = [*tokens, *drafts]
                history = history.followed_by(tokens)
        position = len(sequence.tokens) + len(drafts)
        is_early = position - sequence.prompt_len < sequence.params.min_tokens
        barred = sequence.stop_ids if is_early else ()
        return SamplingRow(
            sequence.params, sequence.seed, position, sequence.prompt_len, tokens, history, barred=barred
        )

    def rows(self, sequence: Sequence) -> list[SamplingRow]:
        """One row for each of the sequence's drafts, which judges it, and one for the token after them."""
        return [self.row(sequence, sequence.drafts[:count]) for count in range(len(sequence.drafts) + 1)]

    def _history(self, sequence: Sequence) -> TokenHistory:
        """The counts of the sequence's tokens so far."""
        history = self._histories.get(sequence)
        if history is None:
            history = self._histories[sequence] = TokenHistory(sequence.params, sequence.prompt_len)
        history.catch_up(sequence.tokens)
        return history
