"""What is refused, on arrival or while it waits, and how the queue is bounded."""

import pytest

from servery.engine.errors import InvalidRequest, LoadError, Overloaded, PromptTooLong
from servery.engine.request import FinishReason, Output
from tests.engine.drive import Drive, config, other, request

# Pitfall 10: silence. Every refusal says why.


def test_pitfall_10_a_prompt_that_can_never_fit_is_refused_with_all_numbers():
    drive = Drive(max_model_len=16)
    with pytest.raises(PromptTooLong, match=r"prompt has 16 tokens and the context is 16.*at most 15"):
        drive.add(request("a", 16))
    with pytest.raises(PromptTooLong, match=r"10 tokens and max_tokens is 7, 17 together.*is 16.*at most 6") as caught:
        drive.add(request("a", 10, max_tokens=7))
    assert caught.value.param == "max_tokens"
    with pytest.raises(PromptTooLong, match="input has 17 tokens; this model takes at most 16"):
        drive.add(request("a", 17, pooling=True))
    assert not drive.scheduler.has_work
    drive.add(request("a", 15), request("b", 10, max_tokens=6), request("c", 16, pooling=True))
    drive.finish()


def test_pitfall_10_nonsense_is_refused_and_leaves_no_trace():
    drive = Drive(vocab_size=200)
    drive.add(request("a"))
    before = drive.stats
    for bad, reason in [
        (request("a"), "request id 'a' is in use"),
        (request("b", []), "no tokens"),
        (request("b", [5, 200]), "ids from 5 to 200; this model's ids are 0 to 199"),
        (request("b", [-1]), "ids from -1 to -1"),
    ]:
        with pytest.raises(InvalidRequest, match=reason):
            drive.add(bad)
    assert drive.stats == before


def test_pitfall_10_a_full_queue_refuses_with_a_time_to_come_back():
    drive = Drive(max_waiting_requests=2, max_running=1)
    drive.add(request("a"), request("b"))
    with pytest.raises(
        Overloaded, match="holds 2 requests of 2 and 16 tokens of 1000000, and this one has 8"
    ) as caught:
        drive.add(request("c"))
    assert caught.value.retry_after_s == 1.0, "nothing is measured yet"
    drive.step()
    drive.add(request("c"))
    assert drive.stats.rejected_requests == 1


def test_pitfall_10_the_queue_is_bounded_by_tokens_of_all_completions_and_empty_takes_anything():
    drive = Drive(max_waiting_tokens=20, max_running=1)
    drive.add(request("a", 8, n=4))
    assert (drive.stats.waiting, drive.stats.waiting_requests, drive.stats.waiting_tokens) == (4, 1, 32)
    with pytest.raises(Overloaded, match="1 requests of 512 and 32 tokens of 20, and this one has 8"):
        drive.add(request("b"))
    drive.step()
    assert (drive.stats.waiting, drive.stats.waiting_requests, drive.stats.waiting_tokens) == (3, 0, 0)
    drive.add(request("b"), request("c"))
    with pytest.raises(Overloaded):
        drive.add(request("d"))
    drive.scheduler.abort("b")
    drive.add(request("d"))


def test_the_time_to_come_back_follows_the_measured_rate():
    drive = Drive(max_waiting_requests=2, max_running=1)
    drive.add(request("a", 30))
    drive.commit(drive.schedule(now=10.0), now=13.0)  # 10 tokens a second
    drive.add(request("b", 60), request("c", 60))
    with pytest.raises(Overloaded) as caught:
        drive.add(request("d", 1))
    assert caught.value.retry_after_s == pytest.approx(12.0)


def test_a_request_whose_deadline_passes_while_it_waits_is_refused_with_a_reason():
    drive = Drive(max_running=1, max_step_tokens=32)
    drive.add(request("a", 4, max_tokens=50))
    drive.add(request("b", other(300, 4), deadline=5.0, n=2), request("c", other(400, 4), deadline=9.0), now=1.0)
    drive.step(now=4.9)
    assert drive.schedule(now=4.95).refused == ()
    step = drive.schedule(now=5.0)
    assert [(out.request_id, out.index) for out in step.refused] == [("b", 0), ("b", 1)]
    assert step.refused[0] == Output(
        request_id="b",
        finish_reason=FinishReason.ERROR,
        error="the request's deadline passed after 4.000 s in the queue.",
        queued_s=4.0,
        retry_after_s=1.0,
    )
    assert (drive.stats.expired_requests, drive.stats.waiting) == (1, 1)
    assert [out.request_id for out in drive.schedule(now=100.0).refused] == ["c"]
    with pytest.raises(Overloaded, match=r"deadline passed 1\.000 s before"):
        drive.add(request("d", deadline=99.0), now=100.0)


def test_a_deadline_is_for_the_start_only_also_after_a_preemption():
    drive = Drive()
    drive.add(request("a", 4, deadline=5.0, n=2, max_tokens=3))
    drive.step(now=4.0)
    (sequence, *_) = drive.scheduler._running
    drive.scheduler._make_room(drive.scheduler._plan(0), sequence)
    assert drive.schedule(now=6.0).refused == ()
    drive.finish()
    assert [drive.last("a", index).finish_reason for index in range(2)] == [FinishReason.LENGTH] * 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"block_size": 0}, "block_size is 0; it must be at least 1"),
        ({"max_model_len": 1}, "max_model_len is 1"),
        ({"prefill_share": 0.0}, "prefill_share is 0.0"),
        ({"watermark": 1.0}, "watermark is 1.0"),
        ({"target_step_s": 0.0}, "target_step_s is 0.0"),
        ({"max_running": 33}, "max_running is 33 and max_step_tokens is 32"),
    ],
)
def test_a_setting_outside_its_range_is_refused(change, reason):
    with pytest.raises(LoadError, match=reason):
        config(**change)
