"""What the result of a step makes of a sequence, and how sequences end."""

import pytest

from servery.engine.errors import IntegrityError
from servery.engine.request import FinishReason, Output, StepResult
from tests.engine.drive import Drive, other, request

# Endings.


def finish_one(tokens: list[int], drafts: int = 0, **fields) -> Output:
    """The output of a step whose result is `tokens`, after a prompt of 4."""
    drive = Drive(eos_token_ids=frozenset({1, 2}), max_model_len=16)
    drive.add(request("a", 4, **({"ignore_eos": False} | fields)))
    drive.step()
    (sequence,) = drive.scheduler._running
    sequence.tokens[-1] = 50
    sequence.drafts = tokens[:drafts]
    step = drive.schedule()
    (output,) = drive.scheduler.commit(step, {sequence: StepResult(token_ids=tokens)}, 0.0)
    drive.scheduler.check_integrity()
    assert drive.scheduler.has_work == (output.finish_reason is None)
    return output


def ending(output: Output) -> tuple[list[int], FinishReason | None, int | None]:
    return output.token_ids, output.finish_reason, output.stop_token_id


def test_eos_is_a_set_and_can_be_ignored():
    assert ending(finish_one([9])) == ([9], None, None)
    assert ending(finish_one([1])) == ([1], FinishReason.STOP, 1)
    assert ending(finish_one([2])) == ([2], FinishReason.STOP, 2)
    assert ending(finish_one([2], ignore_eos=True)) == ([2], None, None)


def test_stop_token_ids_end_even_when_eos_is_ignored():
    assert ending(finish_one([9], stop_token_ids=(8, 9), ignore_eos=True)) == ([9], FinishReason.STOP, 9)


def test_length_ends_at_max_tokens_and_a_stop_at_the_same_token_is_a_stop():
    assert ending(finish_one([9], max_tokens=2)) == ([9], FinishReason.LENGTH, None)
    assert ending(finish_one([1], max_tokens=2)) == ([1], FinishReason.STOP, 1)


def test_tokens_after_a_stop_are_dropped():
    assert ending(finish_one([9, 1, 7, 7], drafts=3)) == ([9, 1], FinishReason.STOP, 1)
    assert ending(finish_one([9, 8, 7], drafts=2, max_tokens=4)) == ([9, 8, 7], FinishReason.LENGTH, None)


def test_a_row_that_failed_ends_alone():
    drive = Drive()
    drive.add(request("a", 4), request("b", other(300, 4)))
    step = drive.schedule()
    results = drive.runner.run(step)
    results[step.scheduled[0].sequence] = StepResult(error="logits are not finite")
    outputs = drive.scheduler.commit(step, results, 0.0)
    assert [(out.request_id, out.finish_reason, out.error) for out in outputs] == [
        ("a", FinishReason.ERROR, "logits are not finite"),
        ("b", None, None),
    ]


def test_a_result_that_does_not_fit_its_step_changes_nothing():
    drive = Drive()
    drive.add(request("a", 4), request("b", other(300, 4)))
    step = drive.schedule()
    good = drive.runner.run(step)
    a, b = good
    for bad in ({a: good[a]}, {a: good[a], b: StepResult()}, {a: good[a], b: StepResult(token_ids=[1, 2])}):
        with pytest.raises(IntegrityError, match=r"Sequence\(b/0: 0 of 4 computed"):
            drive.scheduler.commit(step, bad, 0.0)
        assert (a.computed, len(a.tokens)) == (0, 4)
    assert len(drive.commit(step)) == 2


# What needs every position.


@pytest.mark.parametrize("chunk", [3, 32])
def test_an_embedding_computes_every_position_and_others_may_use_its_blocks(chunk):
    drive = Drive(max_step_tokens=chunk, max_running=2, max_model_len=12)
    drive.add(request("before", 12 - 1, max_tokens=1))
    drive.finish()
    drive.add(request("a", 12, pooling=True))
    drive.finish()
    assert drive.last("a") == Output(
        request_id="a", finish_reason=FinishReason.STOP, embedding=[float(sum(range(100, 112)))]
    )
    drive.add(request("b", 11, max_tokens=1))
    drive.finish()
    assert drive.last("b").cached_tokens == 8


def test_prompt_logprobs_come_once_with_the_first_output_and_cover_the_prompt():
    drive = Drive(max_step_tokens=8)
    drive.add(request("before", 9, max_tokens=1))
    drive.finish()
    drive.add(request("a", 9, prompt_logprobs=0, n=2, max_tokens=3))
    drive.finish()
    mine = [(out.index, len(out.prompt_logprobs)) for out in drive.outputs if out.request_id == "a"]
    assert sorted(mine, reverse=True) == [(1, 0), (1, 0), (1, 0), (0, 9), (0, 0), (0, 0)]
    first = next(out for out in drive.outputs if out.prompt_logprobs)
    assert first.prompt_logprobs[0] is None
    assert [entry.token_id for entry in first.prompt_logprobs[1:]] == list(range(101, 109))
    assert drive.last("a", 1).cached_tokens == 8, "the second completion has nothing to report and may share"


def test_prompt_logprobs_start_over_after_a_preemption_in_the_middle_of_the_prompt():
    drive = Drive(max_step_tokens=8)
    drive.add(request("a", 20, prompt_logprobs=0, max_tokens=1))
    drive.step()
    (sequence,) = drive.scheduler._running
    assert len(sequence.prompt_logprobs) == 9
    drive.scheduler._make_room(drive.scheduler._plan(0), sequence)
    drive.finish()
    scored = drive.last("a").prompt_logprobs
    assert [entry and entry.token_id for entry in scored] == [None, *range(101, 120)]
