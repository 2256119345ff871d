"""What is asked of the engine, and the state of one sequence on its way through it.

`SamplingParams` and `NewRequest` are immutable and validated when made; they cross the process border as MessagePack.
`Sequence` is the scheduler's own mutable record: one per completion, so a request with n = 3 has three.
"""

import enum

import msgspec

from servery.engine.constraint import Constraint
from servery.engine.errors import InvalidRequest

MAX_N = 128
MAX_TOP_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 1000  # of one string; preparing its search takes time in proportion


class FinishReason(enum.Enum):
    """Why a completion ended; the values are the wire's words."""

    STOP = "stop"  # an end-of-sequence token, a stop token or a stop string
    LENGTH = "length"  # max_tokens, or the end of the context
    ABORT = "abort"  # the caller went away
    ERROR = "error"  # the engine failed


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen and when to stop.

    Raises `InvalidRequest` naming the parameter, the value and the rule.

    `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 mean "off"; `temperature` 0 is greedy.
    `logprobs` None means none, 0 the chosen token only, k the k most likely tokens besides.
    `stop_token_ids` end a completion like EOS; `ignore_eos` disables only the model's own EOS set.
    Before `min_tokens` are generated nothing but `max_tokens` ends a completion. `allowed_token_ids`, if any, are all that
    can be chosen. With `include_stop_str_in_output` what stopped a completion is the end of its text.
    `constraint` says what the answer must look like; `max_tokens` may cut it, and so may what the caller stops it by.
    """

    n: int = 1
    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    allowed_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        _check_range("n", self.n, 1, MAX_N)
        if self.max_tokens is not None:
            _check_range("max_tokens", self.max_tokens, 1, 2**31)
        _check_range("temperature", self.temperature, 0.0, 100.0)
        _check_range("top_k", self.top_k, 0, 2**31)
        _check_range("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _check_range("min_p", self.min_p, 0.0, 1.0)
        _check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_range("repetition_penalty", self.repetition_penalty, 0.0, 100.0, open_low=True)
        for token_id, bias in self.logit_bias.items():
            if token_id < 0:
                raise InvalidRequest(f"logit_bias has token id {token_id}; ids are not negative.", "logit_bias")
            _check_range("logit_bias", bias, -100.0, 100.0)
        if self.seed is not None:
            _check_range("seed", self.seed, -(2**63), 2**63 - 1)
        _check_stop(self.stop)
        self._check_choice()
        for param in ("logprobs", "prompt_logprobs"):
            value = getattr(self, param)
            if value is not None:
                _check_range(param, value, 0, MAX_TOP_LOGPROBS)

    def _check_choice(self) -> None:
        """At least one token must be left to choose at any time."""
        _check_range("min_tokens", self.min_tokens, 0, 2**31 if self.max_tokens is None else self.max_tokens)
        for param in ("min_tokens", "allowed_token_ids"):
            if getattr(self, param) and self.constraint is not None:
                raise InvalidRequest(f"{param} cannot be kept by an answer that must have a form; give one.", param)
        if self.min_tokens and self.allowed_token_ids:
            message = "allowed_token_ids may leave only tokens that end the answer, which min_tokens forbids; give one."
            raise InvalidRequest(message, "allowed_token_ids")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0

    @property
    def edits_logits(self) -> bool:
        """Whether anything is said about particular tokens, or is to be told besides the token chosen."""
        is_changed = self.has_penalties or self.logit_bias or self.allowed_token_ids or self.min_tokens
        return bool(is_changed) or self.constraint is not None or self.logprobs is not None

    @property
    def takes_largest(self) -> bool:
        """Whether the model's largest logit decides alone, and nobody wants to know how likely it was."""
        is_free = not (self.has_penalties or self.logit_bias or self.min_tokens or self.allowed_token_ids)
        return self.is_greedy and is_free and self.logprobs is None

    @property
    def has_penalties(self) -> bool:
        """Whether sampling needs the counts of earlier tokens."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0)


def _check_range(param: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    # NaN fails every comparison. An integer may be too long for a float, so none is made of it.
    in_range = (low < value if open_low else low <= value) and value <= high
    if not in_range:
        least, most = _shown(low), _shown(high)
        rule = f"greater than {least} and at most {most}" if open_low else f"between {least} and {most}"
        raise InvalidRequest(f"{param} is {_shown(value)}; it must be {rule}.", param)


def _shown(value: float) -> str:
    text = repr(value).removesuffix(".0")
    return text if len(text) <= 40 else f"{text[:20]}... ({len(text)} digits)"


def _check_stop(stop: tuple[str, ...]) -> None:
    if len(stop) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"stop has {len(stop)} strings; at most {MAX_STOP_STRINGS} are allowed.", "stop")
    if any(not text for text in stop):
        raise InvalidRequest("stop has an empty string; every stop string needs at least one character.", "stop")
    longest = max(map(len, stop), default=0)
    if longest > MAX_STOP_CHARS:
        raise InvalidRequest(
            f"stop has a string of {longest} characters; at most {MAX_STOP_CHARS} are allowed.", "stop"
        )


def check_params(params: SamplingParams, vocab_size: int) -> None:
    """Raise `InvalidRequest` if `params` name a token that a model with `vocab_size` tokens does not have."""
    for param in ("logit_bias", "stop_token_ids", "allowed_token_ids"):
        for token_id in getattr(params, param):
            if not 0 <= token_id < vocab_size:
                raise InvalidRequest(
                    f"{param} has token id {token_id}; this model's ids are 0 to {vocab_size - 1}.", param
                )


# Requests of this priority or a higher number run in steps of their own, when there are no others.
BACKGROUND = 1_000


class NewRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the engine core receives it: tokens, not text.

    `deadline` is in seconds on the system's monotonic clock: a request still waiting then is refused.
    Lower `priority` runs first; from `BACKGROUND` on it runs only when no other request is there. `cache_salt` separates tenants in the prefix cache; only a gateway sets it.
    `adapter` is the id of a loaded LoRA adapter, 0 for the model as it is.
    `pooling` asks for the mean of the final hidden states (an embedding) instead of tokens.
    """

    request_id: str
    prompt: list[int]
    params: SamplingParams = SamplingParams()
    priority: int = 0
    deadline: float | None = None
    cache_salt: bytes = b""
    adapter: int = 0
    pooling: bool = False


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log probabilities (natural, of the model before any sampling parameter) at one position."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]  # most likely first


class Output(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """What one step gave one completion: `token_ids` are new; `finish_reason` is set on the last output only."""

    request_id: str
    index: int = 0
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    prompt_logprobs: list[TokenLogprobs | None] = []  # once, with the first output; None for the first prompt token
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None  # the token that ended it; it is the last of token_ids
    num_drafts: int = 0  # how many drafts were verified for it; the first len(token_ids) - 1 of them stood
    cached_tokens: int = 0  # prompt tokens that the prefix cache supplied
    queued_s: float = 0.0  # from arrival to first being scheduled
    embedding: list[float] = []
    error: str | None = None
    invalid_param: str | None = None  # the parameter at fault when the request should not have been made
    retry_after_s: float | None = None  # set when it was refused (deadline passed while waiting), not failed


class StepResult(msgspec.Struct, gc=False):
    """What the runner computed for one scheduled sequence.

    `token_ids` are the accepted tokens: none for a chunk that does not sample, one normally, up to 1 + drafts when
    drafts were verified (accepted drafts in order, then the token sampled after them). `logprobs` go with them.
    `prompt_logprobs` are those of the prompt tokens `start + 1 .. start + count` that exist, preceded by None when
    `start` is 0; chunk after chunk they add up to one entry per prompt token.
    `embedding` [H] comes with the last chunk of a pooling request. `error` ends this sequence alone, with that message,
    and `invalid_param` names the parameter if it is the request's fault; `is_complete` says that its constraint allows nothing after `token_ids`.
    """

    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    prompt_logprobs: list[TokenLogprobs | None] = []
    embedding: list[float] | None = None
    error: str | None = None
    invalid_param: str | None = None
    is_complete: bool = False


PENDING_TOKEN = -1
"""In the place of a token that is not known yet."""


class Sequence:
    """One completion under way: its tokens, how far the KV cache has caught up, and the blocks it holds.

    Invariant between steps: `0 <= computed < len(tokens)` while alive, and the blocks cover `computed` positions.
    `tokens` is the prompt followed by what was generated; `drafts` are proposals not yet verified.
    The scheduler alone writes these fields, except `drafts`, which whoever speculates fills in before a step.
    """

    __slots__ = (
        "__weakref__",
        "arrival",
        "asks_states",
        "block_ids",
        "cached_tokens",
        "computed",
        "digests",
        "drafts",
        "edits_logits",
        "first_scheduled",
        "index",
        "is_background",
        "is_pending",
        "is_prompt_reported",
        "max_len",
        "order",
        "parent",
        "prompt_len",
        "prompt_logprobs",
        "published",
        "root",
        "seed",
        "stop_ids",
        "takes_largest",
        "tokens",
    )

    def __init__(self, parent: NewRequest, index: int, seed: int, arrival: float) -> None:
        self.parent = parent
        self.index = index
        self.seed = seed
        self.arrival = arrival
        self.tokens: list[int] = list(parent.prompt)
        self.prompt_len = len(parent.prompt)
        self.computed = 0
        self.drafts: list[int] = []
        self.block_ids: list[int] = []
        self.digests: list[bytes] = []  # of full blocks of `tokens`: all of the prompt's, later ones when computed
        self.root = b""  # where the chain of digests starts; empty: its blocks are never published
        self.published = 0  # how many leading blocks are in the prefix index, or were found there
        self.order = 0  # number in the order of arrival, over all sequences
        self.max_len = len(parent.prompt) + 1  # tokens at which it ends with LENGTH
        self.stop_ids: frozenset[int] = frozenset()  # EOS unless ignored, and the request's own
        self.cached_tokens = 0
        self.first_scheduled: float | None = None
        self.is_pending = False  # the newest token is known to the device only; in `tokens` stands PENDING_TOKEN
        self.is_prompt_reported = False  # prompt logprobs already sent, or not this sequence's to send
        self.prompt_logprobs: list[TokenLogprobs | None] = []  # of the chunks so far, until reported
        # Here too, because they are asked at every step.
        self.takes_largest = parent.params.takes_largest
        self.is_background = parent.priority >= BACKGROUND  # runs only when nothing else does
        self.asks_states = parent.pooling or parent.params.prompt_logprobs is not None
        self.edits_logits = parent.params.edits_logits
        self.is_background = parent.priority >= BACKGROUND  # runs only when nothing else does

    @property
    def request_id(self) -> str:
        """The id of the request it belongs to."""
        return self.parent.request_id

    @property
    def params(self) -> SamplingParams:
        """The request's sampling parameters."""
        return self.parent.params

    def missing_blocks(self, block_size: int) -> int:
        """How many blocks of so many tokens it lacks for the tokens that it has."""
        return max(-(-len(self.tokens) // block_size) - len(self.block_ids), 0)

    @property
    def needs_every_position(self) -> bool:
        """Whether the prompt's hidden states are wanted, which cached keys and values cannot give."""
        return self.asks_states and (self.parent.pooling or not self.is_prompt_reported)

    @property
    def is_prefilling(self) -> bool:
        """Whether more than the newest token still has to be computed."""
        return self.computed < len(self.tokens) - 1

    def __repr__(self) -> str:
        return (
            f"Sequence({self.request_id}/{self.index}: {self.computed} of {len(self.tokens)} computed, "
            f"{self.prompt_len} prompt, {len(self.block_ids)} blocks)"
        )
