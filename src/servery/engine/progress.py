"""What one step's result does to one sequence: the newest tokens, how far it is computed, and whether it ends."""

from servery.engine.errors import IntegrityError
from servery.engine.request import PENDING_TOKEN, FinishReason, Output, Sequence, StepResult
from servery.engine.step import Scheduled


def check_result(item: Scheduled, result: StepResult | None) -> StepResult:
    """The result; raises `IntegrityError` if there is none, or one that the step did not ask for."""
    if result is None:
        raise IntegrityError(f"the step has no result for {item.sequence!r}.")
    found = len(result.token_ids)
    if result.error is not None or (found == 1 and item.samples and not item.sequence.asks_states):
        return result
    if item.sequence.parent.pooling:
        if item.samples and result.embedding is None:
            raise IntegrityError(f"{item.sequence!r} is computed to its end but has no embedding.")
        return result
    low, high = (1, 1 + item.num_drafts) if item.samples else (0, 0)
    if not low <= found <= high:
        raise IntegrityError(
            f"{item.sequence!r} got {found} tokens from {item.count} positions with "
            f"{item.num_drafts} drafts; {low} to {high} are possible."
        )
    return result


def advance(item: Scheduled, result: StepResult) -> Output | None:
    """Apply a checked result; the output has a finish reason if the sequence ends, None is a chunk without output.

    Drafts that were not accepted are rolled back: `computed` never counts a position whose token is not final, and
    the newest token is never counted as computed. Tokens after the one that stops the sequence are dropped.
    """
    sequence = item.sequence
    if sequence.drafts:
        sequence.drafts.clear()
    if result.error is not None:
        return failed(sequence, result.error, result.invalid_param)
    if not sequence.is_prompt_reported:
        sequence.prompt_logprobs += result.prompt_logprobs
    if item.samples and not sequence.asks_states:
        if len(result.token_ids) == 1 and not result.logprobs and not result.is_complete:  # nearly always
            return _append_one(sequence, result.token_ids)
        return _append(sequence, result)
    if not item.samples:
        sequence.computed = item.start + item.count
        return None
    if sequence.parent.pooling:
        sequence.computed = item.start + item.count
        output = _output(sequence, [])
        output.finish_reason, output.embedding = FinishReason.STOP, result.embedding or []
        return output
    return _append(sequence, result)


def expect(item: Scheduled) -> None:
    """Take for granted that the step gives its sequence a token, if it samples: what that is will be told by `settle`."""
    sequence = item.sequence
    sequence.computed = item.start + item.count
    if item.samples:
        sequence.tokens.append(PENDING_TOKEN)
        sequence.is_pending = True


def settle(item: Scheduled, result: StepResult) -> Output:
    """Put the token in its place that was taken for granted; as `advance`, also for who was preempted meanwhile."""
    sequence = item.sequence
    sequence.is_pending = False
    if result.error is not None:
        return failed(sequence, result.error, result.invalid_param)
    (token_id,) = result.token_ids
    sequence.tokens[-1] = token_id
    output = _told_of_one(sequence, result.token_ids)
    if result.logprobs:
        output.logprobs = result.logprobs
    if result.is_complete:
        output.finish_reason = FinishReason.STOP
    return output


def failed(sequence: Sequence, message: str, invalid_param: str | None = None) -> Output:
    """The last output of a sequence that the engine cannot go on with."""
    output = _output(sequence, [])
    output.finish_reason, output.error, output.invalid_param = FinishReason.ERROR, message, invalid_param
    return output


def _append_one(sequence: Sequence, token_ids: list[int]) -> Output:
    """As `_append`, of one token that nothing is told about."""
    tokens, token_id = sequence.tokens, token_ids[0]
    tokens.append(token_id)
    sequence.computed = len(tokens) - 1
    return _told_of_one(sequence, token_ids)


def _told_of_one(sequence: Sequence, token_ids: list[int]) -> Output:
    tokens, token_id = sequence.tokens, token_ids[0]
    sequence.is_prompt_reported = True
    output = _output(sequence, token_ids)
    if token_id in sequence.stop_ids:
        output.stop_token_id, output.finish_reason = token_id, FinishReason.STOP
    elif len(tokens) >= sequence.max_len:
        output.finish_reason = FinishReason.LENGTH
    return output


def _append(sequence: Sequence, result: StepResult) -> Output:
    tokens, stop_ids, max_len = sequence.tokens, sequence.stop_ids, sequence.max_len
    new, reason = result.token_ids, None
    for at, token in enumerate(new):
        tokens.append(token)
        if token in stop_ids:
            reason = FinishReason.STOP
        elif len(tokens) >= max_len:
            reason = FinishReason.LENGTH
        if reason is not None:
            new = new[: at + 1]
            break
    sequence.computed = len(tokens) - 1
    output = _output(sequence, new)
    if reason is FinishReason.STOP:
        output.stop_token_id = new[-1]
    if result.is_complete and len(new) == len(result.token_ids):
        reason = FinishReason.STOP  # also if it is the last token that max_tokens allows: nothing was cut
    output.finish_reason = reason
    if result.logprobs:
        output.logprobs = result.logprobs[: len(new)]
    if sequence.prompt_logprobs:
        output.prompt_logprobs, sequence.prompt_logprobs = sequence.prompt_logprobs, []
    sequence.is_prompt_reported = True
    return output


def _output(sequence: Sequence, token_ids: list[int]) -> Output:
    started, parent = sequence.first_scheduled, sequence.parent
    return Output(
        request_id=parent.request_id,
        index=sequence.index,
        token_ids=token_ids,
        cached_tokens=sequence.cached_tokens,
        queued_s=0.0 if started is None else started - sequence.arrival,
    )
