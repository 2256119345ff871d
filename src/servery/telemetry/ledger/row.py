"""A row of the ledger: what one exchange came to."""

from typing import NamedTuple


class LedgerRow(NamedTuple):
    """One exchange. Times are seconds (`at_s` Unix time of its arrival), money is nano-dollars; None for what is not known.

    Who asked: `key_id` (empty where no key was needed) and that key's `owner`; `task` is what the
    client called the piece of work that this was part of (`x-servery-task`). `model` is what was asked for,
    `served_model` what answered, at `deployment` of `tier`, for the reason in `route`; `cache` is the cache that had a
    part of it.

    Tokens are those of the answer as its deployment counted them; `extra_tokens` were used besides, by attempts that came
    to nothing and for prompts that were read again, so that all of them together are what is on the bill. `is_estimated`
    marks counts that nobody told, so that they were guessed. `cost_nanousd` is by the price of whoever was
    asked, `dearest_nanousd` what the same tokens cost at the dearest deployment that could have been. `queue_s` is what it
    waited for a place, here and in the engine. `is_slo_met` is None for a model without SLO and for requests that were
    the client's own fault. `error` is the type of what went wrong, `generation` the configuration's.
    """

    id: str
    request_id: str
    at_s: float
    api: str
    key_id: str
    owner: str | None
    task: str | None
    model: str
    served_model: str
    deployment: str | None
    tier: str | None
    is_stream: bool
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    reasoning_tokens: int
    extra_tokens: int
    is_estimated: bool
    queue_s: float
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float
    is_slo_met: bool | None
    cost_nanousd: int
    dearest_nanousd: int
    cache: str | None
    route: str | None
    attempts: int
    outcome: str
    status: int | None
    error: str | None
    generation: int
