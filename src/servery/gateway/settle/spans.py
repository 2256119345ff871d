"""An exchange that is over, as spans: how it was admitted, each attempt, and what the engine told of it."""

from functools import lru_cache
from urllib.parse import urlsplit

from servery.gateway.dispatch.attempt import Attempt
from servery.gateway.exchange import Exchange, Outcome
from servery.gateway.settle.content import Overheard, answered_messages, asked_messages
from servery.gateway.settle.used import used
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.traces import conventions as names
from servery.telemetry.traces.context import new_span_id
from servery.telemetry.traces.trace import CLIENT, INTERNAL, Attributes, Span, Trace, Value
from servery.upstream.ask import Api, Ask

_PORTS = {"https": 443, "http": 80}
_FAULTS = (Outcome.FAILED, Outcome.TIMEOUT, Outcome.SHUTDOWN)
_NANO = 1e-9


def write_spans(exchange: Exchange, row: LedgerRow, trace: Trace) -> None:
    """Add what is below the request's own span, and what that one says of the answer."""
    if not trace.is_sampled:
        return
    ended_s = exchange.arrived_s + row.e2e_s
    admitted_s = ended_s if exchange.admitted_s is None else exchange.admitted_s
    refused = row.error if exchange.admitted_s is None else None
    admission = Span(
        names.ADMISSION, INTERNAL, new_span_id(), trace.root_id, exchange.arrived_s, admitted_s, {}, refused
    )
    trace.add(admission)
    for attempt in exchange.attempts:
        _write_attempt(attempt, trace)
    trace.attributes |= _answered(exchange, row)
    if isinstance(exchange.client, Overheard):
        trace.attributes |= _content(exchange, exchange.client)
    if exchange.outcome in _FAULTS:
        trace.error = row.error
    if exchange.outcome is not Outcome.COMPLETED and row.error is not None:
        trace.attributes[names.ERROR_TYPE] = row.error


def _write_attempt(attempt: Attempt, trace: Trace) -> None:
    config = attempt.deployment.config
    span_id = new_span_id() if attempt.onward is None else attempt.onward.span_id
    asked, result = _asked(attempt.ask, config.model), attempt.result
    attributes: dict[str, Value] = {
        **asked,
        names.PROVIDER: names.PROVIDERS.get(config.kind.value, config.kind.value),
        names.DEPLOYMENT: config.name,
        names.TIER: config.tier.value,
        names.CHOSEN_BECAUSE: attempt.why,
        names.RESULT: result,
        **_place(config.url),
        **_used(attempt),
    }
    if attempt.is_hedge:
        attributes[names.HEDGE] = True
    error = None if result in ("ok", "abandoned") else result
    if error is not None:
        attributes[names.ERROR_TYPE] = error
    name, kind = f"{asked[names.OPERATION]} {config.model}", INTERNAL if attempt.deployment.is_own else CLIENT
    trace.add(Span(name, kind, span_id, trace.root_id, attempt.sent_s, attempt.ended_s, attributes, error))
    if attempt.queued_s is not None:
        _write_engine(attempt, attempt.queued_s, span_id, trace)


def _write_engine(attempt: Attempt, queued_s: float, parent_id: int, trace: Trace) -> None:
    """What an engine of this process did for an attempt's first prompt: it waited, was computed, and went on.

    Writing the prompt down in tokens is before all of that and part of the first; what the engine tells is how long.
    """
    first_s = attempt.ended_s if attempt.first_s is None else attempt.first_s
    prefill_s = min(attempt.sent_s + queued_s, first_s)
    prompt: Attributes = {names.INPUT_TOKENS: attempt.prompt_tokens, names.CACHED_TOKENS: attempt.cached_tokens}
    parts: list[tuple[str, float, float, Attributes]] = [
        (names.QUEUE, attempt.sent_s, prefill_s, {}),
        (names.PREFILL, prefill_s, first_s, prompt),
    ]
    if attempt.first_s is not None:
        parts.append((names.DECODE, first_s, attempt.last_s, {names.OUTPUT_TOKENS: attempt.tokens}))
    for name, start_s, end_s, attributes in parts:
        trace.add(Span(name, INTERNAL, new_span_id(), parent_id, start_s, end_s, attributes))


def _asked(ask: Ask, model: str) -> dict[str, Value]:
    head = ask.head
    given: dict[str, Value | None] = {
        names.OPERATION: names.OPERATIONS[ask.api.value],
        names.REQUEST_MODEL: model,
        names.REQUEST_STREAM: ask.is_stream or None,
        names.REQUEST_MAX_TOKENS: head.most_tokens,
        names.REQUEST_TEMPERATURE: head.temperature,
        names.REQUEST_SEED: head.seed,
        names.REQUEST_CHOICES: head.n if head.n != 1 else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _used(attempt: Attempt) -> dict[str, Value]:
    part = used(attempt)
    attributes: dict[str, Value] = {}
    if part.prompt_tokens or part.generated_tokens:
        attributes[names.INPUT_TOKENS] = part.prompt_tokens
        attributes[names.OUTPUT_TOKENS] = part.generated_tokens
    if part.cached_tokens:
        attributes[names.CACHED_TOKENS] = part.cached_tokens
    if part.reasoning_tokens:
        attributes[names.REASONING_TOKENS] = part.reasoning_tokens
    if attempt.ask.is_stream and attempt.first_s is not None:
        attributes[names.TIME_TO_FIRST_CHUNK] = attempt.first_s - attempt.sent_s
    return attributes


def _content(exchange: Exchange, heard: Overheard) -> dict[str, Value]:
    """Prompts and answers, for those who asked for them."""
    configs = [attempt.deployment.config for attempt in exchange.attempts]
    held = [secret for each in configs for secret in (each.api_key, *each.headers.values()) if secret is not None]
    secrets = [each.reveal() for each in held]
    reasons = exchange.record.finish_reasons
    answer = answered_messages(exchange.ask, heard.data, reasons, secrets)
    asked: dict[str, Value] = {names.INPUT_MESSAGES: asked_messages(exchange.ask, secrets)}
    return asked if answer is None else {**asked, names.OUTPUT_MESSAGES: answer}


def _answered(exchange: Exchange, row: LedgerRow) -> dict[str, Value]:
    """What the span of the whole request says of the answer."""
    given: dict[str, Value | None] = {
        **_asked(exchange.ask, row.model),
        names.RESPONSE_MODEL: row.served_model if row.outcome == Outcome.COMPLETED.value else None,
        # The id of a response is a secret: who knows it may go on with it.
        names.RESPONSE_ID: None if exchange.ask.api is Api.RESPONSES else exchange.ask.shown_id,
        names.FINISH_REASONS: exchange.record.finish_reasons or None,
        names.INPUT_TOKENS: row.prompt_tokens or None,
        names.OUTPUT_TOKENS: row.generated_tokens or None,
        names.CACHED_TOKENS: row.cached_tokens or None,
        names.REASONING_TOKENS: row.reasoning_tokens or None,
        names.TIME_TO_FIRST_CHUNK: row.ttft_s if row.is_stream else None,
        names.OUTCOME: row.outcome,
        names.TASK: row.task,
        names.CACHE: row.cache,
        names.WAITED: exchange.waited_s or None,
        names.COST: row.cost_nanousd * _NANO if row.cost_nanousd else None,
        names.SLO_MET: row.is_slo_met,
        names.ATTEMPTS: row.attempts,
    }
    return {name: value for name, value in given.items() if value is not None}


@lru_cache(maxsize=1024)
def _place(url: str | None) -> dict[str, Value]:
    """The host and port of an address, without the rest of it."""
    if url is None:
        return {}
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme, 0)
    return {names.SERVER_ADDRESS: parts.hostname or "", names.SERVER_PORT: port}
