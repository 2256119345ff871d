import msgspec
import pytest

from servery.engine.admission import derive_seed
from servery.engine.errors import IntegrityError, LoadError
from servery.engine.request import BACKGROUND, FinishReason
from servery.engine.scheduler import IdleReason, SchedulerStats, Step
from tests.engine.drive import SEED, Drive, config, counts, other, request
from tests.engine.fake_runner import propose, reference

# Pitfall 1: prefill-first scheduling.


def test_pitfall_1_whoever_decodes_gets_a_token_in_every_step_of_a_long_prefill():
    drive = Drive(max_step_tokens=8, max_model_len=64)
    drive.add(request("short", 4))
    assert drive.step() == {"short/0": 4}
    drive.add(request("long", other(300, 30)))
    assert [drive.step() for _ in range(5)] == [{"short/0": 1, "long/0": n} for n in (7, 7, 7, 7, 2)]
    assert drive.step() == {"short/0": 1, "long/0": 1}


def test_pitfall_1_one_long_prompt_does_not_hold_up_the_prefill_of_others():
    drive = Drive(max_step_tokens=8)
    drive.add(request("long", other(300, 30)), request("short", other(400, 4)))
    assert drive.step() == {"long/0": 4, "short/0": 4}


def test_what_nobody_else_wants_of_a_step_goes_to_the_long_prompt():
    drive = Drive(max_step_tokens=16)
    drive.add(request("long", other(300, 30)), request("short", other(400, 3)))
    assert drive.step() == {"long/0": 13, "short/0": 3}
    assert drive.step() == {"short/0": 1, "long/0": 15}


def test_a_step_with_decodes_is_kept_under_the_target_time_and_prefill_still_ends():
    drive = Drive(max_step_tokens=32, target_step_s=0.05)
    drive.add(request("short", 4))
    drive.step()
    for tokens in (1, 32):
        drive.scheduler.observe(Step((), num_tokens=tokens), 0.001 + 0.004 * tokens)
    drive.add(request("long", other(300, 40)))
    assert drive.step() == {"short/0": 1, "long/0": 11}, "12 tokens take 0.049 s"
    for _ in range(50):
        drive.scheduler.observe(Step((), num_tokens=1), 1.0)
        drive.scheduler.observe(Step((), num_tokens=32), 32.0)
    assert drive.step() == {"short/0": 1, "long/0": 4}, "too slow for any target: a block at a time"


def test_a_step_of_prefill_alone_may_take_longer_but_not_for_ever():
    """Nobody's next token waits, but aborts and heartbeats do."""
    drive = Drive(max_step_tokens=32, target_step_s=0.05, longest_step_s=1.0)
    drive.add(request("long", other(300, 60)))
    drive.step()
    for tokens in (1, 32):
        drive.scheduler.observe(Step((), num_tokens=tokens), 0.1 + 0.09 * tokens)
    assert drive.step() == {"long/0": 10}, "10 tokens take 1 s"


# Pitfall 2: reserving max_tokens.


def test_pitfall_2_admission_counts_what_is_there_not_what_may_be_generated():
    drive = Drive(num_blocks=16, max_step_tokens=64)
    drive.add(*(request(f"r{i}", other(100 * i, 8), max_tokens=50) for i in range(5)))
    assert len(drive.step()) == 5, "5 x 58 tokens would not fit into 64"
    assert drive.stats.held_blocks == 10


def test_pitfall_2_the_newest_of_the_lowest_priority_is_preempted_and_recomputed():
    drive = Drive(num_blocks=8, max_model_len=32, max_step_tokens=64)
    drive.add(request("old", other(100, 8), max_tokens=20), request("new", other(200, 8), max_tokens=20))
    drive.add(request("vip", other(300, 8), max_tokens=20, priority=-1))
    preempted = []
    while not preempted:
        step = drive.schedule()
        preempted = [sequence.request_id for sequence in step.preempted]
        drive.commit(step)
    assert preempted == ["new"]
    assert counts(step) == {"vip/0": 1, "old/0": 1}
    drive.finish()
    for number, name in enumerate(["old", "new", "vip"], start=1):
        prompt = request(name, other(100 * number, 8), max_tokens=20)
        assert drive.tokens(name) == reference(prompt, SEED, (), 32)[0]


def test_pitfall_2_recompute_is_cheap_because_published_blocks_stay_cached():
    drive = Drive(num_blocks=10, max_model_len=36, max_step_tokens=64)
    drive.add(request("old", other(100, 14), max_tokens=20), request("new", other(200, 14), max_tokens=4))
    for _ in range(2):
        drive.step()
    new = next(s for s in drive.scheduler._running if s.request_id == "new")
    drive.scheduler._make_room(drive.scheduler._plan(0), new)
    drive.scheduler.check_integrity()
    assert (new.computed, new.block_ids, len(new.tokens)) == (0, [], 16)
    assert drive.step() == {"old/0": 1, "new/0": 4}, "12 of 16 come from the cache"
    drive.finish()
    assert drive.tokens("new") == reference(request("new", other(200, 14), max_tokens=4), SEED, (), 36)[0]
    assert drive.last("new").cached_tokens == 0, "what it computed itself is not a saving for the client"


def test_nobody_is_admitted_in_a_step_that_preempted():
    drive = Drive(num_blocks=4, max_model_len=16, max_step_tokens=64)
    drive.add(request("a", other(100, 7)), request("b", other(200, 7)))
    drive.step()
    drive.step()
    drive.add(request("c", other(300, 1)))
    step = drive.schedule()
    assert [sequence.request_id for sequence in step.preempted] == ["b"]
    assert counts(step) == {"a/0": 1}


def test_an_admission_leaves_the_watermark_unless_nobody_runs():
    drive = Drive(num_blocks=16, watermark=0.25, max_step_tokens=64)
    drive.add(request("big", other(100, 56)), request("small", other(200, 4)))
    assert drive.step() == {"big/0": 56}
    assert drive.stats.waiting == 1, "1 block of 2 would remain, of 16 4 must"
    drive.scheduler.abort("big")
    assert drive.step() == {"small/0": 4}


def test_an_admission_leaves_the_blocks_that_prefills_under_way_still_need():
    drive = Drive(num_blocks=16, max_step_tokens=8, prefill_share=0.5)
    drive.add(request("long", other(100, 56)), request("next", other(200, 12)))
    assert drive.step() == {"long/0": 8}
    assert drive.stats.free_blocks == 14
    assert drive.stats.waiting == 1


def test_a_lone_sequence_can_always_grow_to_the_end_of_the_context():
    drive = Drive(num_blocks=16, max_model_len=64, watermark=0.5, max_step_tokens=8)
    drive.add(request("a", 60))
    drive.finish()
    assert len(drive.tokens("a")) == 4
    assert drive.last("a").finish_reason is FinishReason.LENGTH
    with pytest.raises(LoadError, match=r"holds 60 tokens \(15 blocks of 4\) and max_model_len is 64"):
        config(num_blocks=15)


# Pitfall 3: a full prefix hit leaves nothing to compute.


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 8, 9])
def test_pitfall_3_at_least_the_newest_token_is_computed_whatever_is_cached(length):
    drive = Drive()
    drive.add(request("first", length, max_tokens=9))
    drive.finish()
    drive.add(request("again", length, max_tokens=9))
    cached = (length - 1) // 4 * 4
    assert drive.step() == {"again/0": length - cached}
    drive.finish()
    assert drive.last("again").cached_tokens == cached
    assert drive.tokens("again") == drive.tokens("first")


def test_pitfall_3_holds_after_a_preemption_too():
    drive = Drive()
    drive.add(request("a", 7, max_tokens=20))
    drive.step()
    drive.step()
    (sequence,) = drive.scheduler._running
    assert (len(sequence.tokens), sequence.computed) == (9, 8)
    drive.scheduler._make_room(drive.scheduler._plan(0), sequence)
    assert drive.step() == {"a/0": 1}
    drive.finish()
    assert drive.tokens("a") == reference(request("a", 7, max_tokens=20), SEED, (), 64)[0]


# Pitfall 4: publishing what is not final or not written.


def test_pitfall_4_a_block_is_found_only_after_the_step_that_wrote_it():
    drive = Drive(max_step_tokens=32)
    drive.add(request("a", 9))
    step = drive.schedule()
    assert len(drive.scheduler.pool.index) == 0
    drive.commit(step)
    assert len(drive.scheduler.pool.index) == 2


@pytest.mark.parametrize("end", ["abort", "fail"])
def test_pitfall_4_a_cancelled_step_publishes_nothing_and_frees_everything(end):
    drive = Drive()
    drive.add(request("a", 9), request("b", other(300, 9)))
    step = drive.schedule()
    results = drive.runner.run(step)
    if end == "abort":
        assert [s.request_id for s in drive.scheduler.abort("a")] == ["a"]
        assert drive.stats.held_blocks == 3
        outputs = drive.scheduler.commit(step, results, 0.0)
        assert [out.request_id for out in outputs] == ["b"]
        assert len(drive.scheduler.pool.index) == 2
    else:
        outputs = drive.scheduler.fail(step, "device lost")
        assert [(out.request_id, out.finish_reason, out.error) for out in outputs] == [
            ("a", FinishReason.ERROR, "device lost"),
            ("b", FinishReason.ERROR, "device lost"),
        ]
        assert (drive.stats.held_blocks, drive.stats.cached_blocks) == (0, 0)
    drive.scheduler.check_integrity()


def test_pitfall_4_rejected_drafts_are_rolled_back_and_never_published():
    drive = Drive()
    drive.add(request("a", 4, max_tokens=20))
    drive.step()
    (sequence,) = drive.scheduler._running
    propose(sequence, wrong_from=1, count=6)
    step = drive.schedule()
    assert [(i.start, i.count, i.num_drafts, i.samples) for i in step.scheduled] == [(4, 7, 6, True)]
    (output,) = drive.commit(step)
    assert len(output.token_ids) == 2, "one accepted, one sampled"
    assert (sequence.computed, len(sequence.tokens), sequence.drafts) == (6, 7, [])
    assert len(drive.scheduler.pool.index) == 1, "of 11 written positions 6 are final: one full block"
    assert (drive.stats.drafted_tokens, drive.stats.accepted_draft_tokens) == (6, 1)
    drive.finish()
    assert drive.tokens("a") == reference(request("a", 4, max_tokens=20), SEED, (), 64)[0]


def test_pitfall_4_side_by_side_copies_of_a_prefix_are_not_merged():
    drive = Drive(num_blocks=64, max_step_tokens=64)
    drive.add(request("a", 9, prompt_logprobs=0), request("b", 9, prompt_logprobs=0))
    drive.step()
    one, two = drive.scheduler._running
    assert not set(one.block_ids) & set(two.block_ids)
    assert len(drive.scheduler.pool.index) == 2
    drive.finish()


# Pitfall 5: cache keys.


def test_pitfall_5_a_prefix_is_shared_within_a_salt_only():
    drive = Drive()
    drive.add(request("a", 9, cache_salt=b"tenant 1", max_tokens=1))
    drive.finish()
    for name, salt, hit in [("b", b"tenant 1", 8), ("c", b"tenant 2", 0), ("d", b"", 0)]:
        drive.add(request(name, 9, cache_salt=salt, max_tokens=1))
        drive.finish()
        assert drive.last(name).cached_tokens == hit
    assert (drive.stats.prefix_query_tokens, drive.stats.prefix_hit_tokens) == (36, 8)


def test_a_hit_goes_on_into_what_was_generated():
    drive = Drive()
    drive.add(request("a", 6, max_tokens=8))
    drive.finish()
    drive.add(request("b", [*range(100, 106), *drive.tokens("a"), 7], max_tokens=1))
    drive.finish()
    assert drive.last("b").cached_tokens == 12, "13 of 14 positions were computed: three full blocks"


# Sharing while it is computed.


def test_a_second_request_waits_for_the_blocks_that_the_first_is_computing():
    drive = Drive(max_step_tokens=8)
    drive.add(request("a", 20), request("b", 18), request("c", other(500, 3)))
    assert drive.step() == {"a/0": 5, "c/0": 3}, "those behind it do not wait"
    assert drive.step() == {"c/0": 1, "a/0": 7}
    assert drive.step() == {"c/0": 1, "a/0": 7}
    assert drive.step() == {"c/0": 1, "a/0": 1, "b/0": 2}
    drive.finish()
    assert drive.last("b").cached_tokens == 16
    assert drive.stats.deferrals == 3


@pytest.mark.parametrize("end", ["abort", "fail", "preempt"])
def test_it_goes_on_by_itself_when_the_first_goes_away(end):
    drive = Drive(max_step_tokens=8)
    drive.add(request("a", 20), request("b", 18, max_tokens=2, priority=-1 if end == "preempt" else 0))
    if end == "preempt":
        drive.scheduler.abort("b")  # it comes back behind a
    drive.step()
    if end == "abort":
        drive.scheduler.abort("a")
    elif end == "fail":
        drive.scheduler.fail(drive.schedule(), "device lost")
    else:
        drive.add(request("b", 18, max_tokens=2, priority=-1))
        (a,) = drive.scheduler._running
        drive.scheduler._make_room(drive.scheduler._plan(0), a)
    assert "b/0" in drive.step()
    drive.scheduler.abort("a")
    drive.finish()
    assert drive.tokens("b") == reference(request("b", 18, max_tokens=2), SEED, (), 64)[0]


@pytest.mark.parametrize("enable_prefix_cache", [True, False])
def test_completions_of_one_request_share_the_full_blocks_of_its_prompt(enable_prefix_cache):
    drive = Drive(enable_prefix_cache=enable_prefix_cache)
    drive.add(request("a", 10, n=3, max_tokens=5))
    assert drive.step() == {"a/0": 10}
    assert drive.step() == {"a/0": 1, "a/1": 2, "a/2": 2}
    tables = [sequence.block_ids for sequence in drive.scheduler._running]
    assert tables[0][:2] == tables[1][:2] == tables[2][:2]
    assert drive.stats.held_blocks == 2 + 3
    drive.finish()
    for index in range(3):
        assert (
            drive.tokens("a", index) == reference(request("a", 10, max_tokens=5), derive_seed(SEED, index), (), 64)[0]
        )
    assert len({derive_seed(SEED, index) for index in range(128)}) == 128
    assert derive_seed(SEED, 0) == SEED


def test_without_a_prefix_cache_nobody_else_shares():
    drive = Drive(enable_prefix_cache=False)
    for name, n in [("a", 1), ("b", 2), ("c", 2), ("a again", 1)]:
        drive.add(request(name, 10, n=n, max_tokens=1))
        drive.finish()
        assert drive.last(name).cached_tokens == 0
    assert drive.stats.prefix_hit_tokens == 16, "b/1 and c/1 from their own siblings"


# Drafts.


def test_drafts_never_reach_beyond_the_last_token_that_may_be_generated():
    drive = Drive(max_model_len=16)
    drive.add(request("a", 4, max_tokens=4))
    drive.step()
    (sequence,) = drive.scheduler._running
    propose(sequence, wrong_from=9, count=9)
    assert drive.step() == {"a/0": 3}, "three more tokens: two drafts and the one after them"
    assert drive.last("a").finish_reason is FinishReason.LENGTH


def draft_for_all(drive: Drive) -> None:
    for sequence in drive.scheduler._running:
        propose(sequence, wrong_from=0, count=8)


def test_drafts_share_what_is_left_when_everyone_has_a_token():
    drive = Drive(max_step_tokens=6, max_running=3)
    drive.add(request("a", 1), request("b", 2), request("c", 3))
    drive.step()
    draft_for_all(drive)
    drive.add(request("d", 1))
    assert drive.step() == {"a/0": 4, "b/0": 1, "c/0": 1}


def test_drafts_take_no_block_that_another_token_needs():
    drive = Drive(num_blocks=4, max_model_len=16, max_step_tokens=32)
    drive.add(request("a", other(100, 3)), request("b", other(200, 8)))
    drive.step()
    draft_for_all(drive)
    assert drive.stats.free_blocks == 1
    assert drive.step() == {"a/0": 1, "b/0": 4}, "b needs the last block for its token, its drafts fill it up"
    assert drive.stats.preemptions == 0


def test_drafts_leave_prefills_what_they_want():
    drive = Drive(max_step_tokens=12, max_running=3)
    drive.add(request("a", 1))
    drive.step()
    draft_for_all(drive)
    drive.add(request("b", other(200, 9)))
    assert drive.step() == {"a/0": 3, "b/0": 9}, "eight drafts, of which the prompt leaves room for two"


def test_what_is_to_spare_is_what_decodes_and_prefills_leave():
    drive = Drive(max_step_tokens=20, max_running=2)
    drive.add(request("a", 4))
    assert drive.scheduler.spare_tokens == 16, "a's prompt has not begun"
    drive.step()
    assert drive.scheduler.spare_tokens == 19
    drive.add(request("b", other(200, 7)))
    assert drive.scheduler.spare_tokens == 12
    drive.step()
    drive.add(request("c", 9))
    assert drive.scheduler.spare_tokens == 18, "c has to wait for one of the two"
    drive = Drive(max_step_tokens=8, max_running=2)
    drive.add(request("a", 20))
    assert drive.scheduler.spare_tokens == 0


def test_an_output_tells_how_many_drafts_were_verified_for_it():
    drive = Drive()
    drive.add(request("a", 4))
    drive.step()
    (sequence,) = drive.scheduler._running
    propose(sequence, wrong_from=2, count=5)
    drive.step()
    drive.step()
    assert [(output.num_drafts, len(output.token_ids)) for output in drive.outputs] == [(0, 1), (5, 3), (0, 1)]
    stats = drive.stats
    assert (stats.draft_rounds, stats.draft_acceptance_rate, stats.mean_accepted_length) == (1, 0.4, 3.0)


# Order, aborts, figures.


def test_priority_comes_before_arrival_and_arrival_before_the_rest():
    drive = Drive(max_running=1)
    drive.add(*(request(name, max_tokens=1, priority=p) for name, p in [("a", 1), ("b", 0), ("c", 0), ("d", -1)]))
    order = []
    while drive.scheduler.has_work:
        order += drive.step()
    assert order == ["d/0", "b/0", "c/0", "a/0"]


def test_prefills_under_way_are_served_in_the_order_of_priority_too():
    drive = Drive(max_step_tokens=8, prefill_share=0.3)
    drive.add(*(request(name, other(start, 40), priority=1) for name, start in [("a", 100), ("b", 200)]))
    assert drive.step() == {"a/0": 3, "b/0": 5}
    drive.add(request("vip", other(300, 40), priority=0))
    assert drive.step() == {"a/0": 3, "b/0": 3, "vip/0": 2}
    assert drive.step() == {"vip/0": 3, "a/0": 3, "b/0": 2}


def test_abort_frees_everything_at_once_whether_waiting_or_running_and_is_idempotent():
    drive = Drive(max_running=2)
    drive.add(request("a", 9, n=3, max_tokens=20))
    drive.step()
    drive.step()
    assert (drive.stats.running, drive.stats.waiting) == (2, 1)
    assert [s.index for s in drive.scheduler.abort("a", 1)] == [1]
    assert drive.scheduler.abort("a", 1) == []
    assert {s.index for s in drive.scheduler.abort("a")} == {0, 2}
    assert drive.scheduler.abort("a") == drive.scheduler.abort("never") == []
    stats = drive.stats
    assert (stats.running, stats.waiting, stats.held_blocks, stats.finished_abort) == (0, 0, 0, 3)
    drive.scheduler.check_integrity()
    assert drive.schedule() == Step((), idle_reason=IdleReason.NO_REQUESTS)


def test_an_id_that_is_reused_between_schedule_and_commit_is_another_request():
    drive = Drive()
    drive.add(request("a", 9))
    step = drive.schedule()
    drive.scheduler.abort("a")
    drive.add(request("a", 5))
    assert drive.commit(step) == []
    assert drive.step() == {"a/0": 5}


def test_the_first_output_tells_the_time_in_the_queue_and_the_cached_tokens():
    drive = Drive()
    drive.add(request("a", 9, max_tokens=1), now=1.0)
    drive.step(now=1.25)
    assert drive.last("a").queued_s == 0.25
    drive.add(request("b", 9, max_tokens=2), now=2.0)
    drive.step(now=4.0)
    assert (drive.last("b").queued_s, drive.last("b").cached_tokens) == (2.0, 8)


def test_stats_cross_a_process_border():
    drive = Drive()
    drive.add(request("a", 9, max_tokens=2), request("b", other(300, 9)))
    drive.step()
    stats = drive.stats
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(stats), type=SchedulerStats) == stats
    assert (stats.running, stats.held_blocks, stats.generated_tokens, stats.scheduled_tokens) == (2, 6, 2, 18)


def test_check_integrity_notices_a_table_that_was_tampered_with():
    drive = Drive()
    drive.add(request("a", 9))
    drive.step()
    (sequence,) = drive.scheduler._running
    sequence.block_ids.append(sequence.block_ids[0])
    with pytest.raises(IntegrityError, match="1 blocks are leaked or wrongly shared"):
        drive.scheduler.check_integrity()


# The background: what runs only when nothing else does.


def test_the_background_pauses_while_anything_else_is_there_and_goes_on_after_it():
    drive = Drive(max_step_tokens=16)
    drive.add(request("batch", 4, max_tokens=9, priority=BACKGROUND))
    assert drive.step() == {"batch/0": 4}
    assert drive.step() == {"batch/0": 1}
    drive.add(request("chat", other(300, 6), max_tokens=2))
    assert [drive.step() for _ in range(2)] == [{"chat/0": 6}, {"chat/0": 1}]
    assert drive.step() == {"batch/0": 1}, "it kept its blocks"
    assert drive.stats.preemptions == 0


def test_nothing_of_the_background_is_admitted_beside_anything_else():
    drive = Drive(max_step_tokens=16)
    drive.add(request("batch", 4, priority=BACKGROUND), request("chat", other(300, 4), max_tokens=2))
    assert [drive.step() for _ in range(3)] == [{"chat/0": 4}, {"chat/0": 1}, {"batch/0": 4}]


def test_the_background_makes_room_at_once_where_there_is_none():
    drive = Drive(num_blocks=8, max_model_len=32, max_running=2, max_step_tokens=64, watermark=0.0)
    drive.add(*(request(f"batch{i}", other(100 * i, 14), max_tokens=9, priority=BACKGROUND) for i in (1, 2)))
    assert drive.step() == {"batch1/0": 14, "batch2/0": 14}
    drive.add(request("chat", other(300, 20), max_tokens=2))
    assert drive.step() == {"chat/0": 20}, "neither a place nor blocks were free"
    assert drive.stats.preemptions == 2
    drive.finish()
    drive.scheduler.check_integrity()


def test_a_prefix_that_the_background_is_computing_is_not_waited_for():
    drive = Drive(max_step_tokens=8)
    drive.add(request("batch", 30, priority=BACKGROUND))
    assert drive.step() == {"batch/0": 8}
    drive.add(request("chat", 30, max_tokens=2))
    assert drive.step() == {"chat/0": 8}


def test_steps_of_the_background_are_short():
    drive = Drive(max_step_tokens=32, background_step_s=0.01)
    drive.add(request("batch", other(300, 60), priority=BACKGROUND))
    drive.step()
    for tokens in (1, 32):
        drive.scheduler.observe(Step((), num_tokens=tokens), 0.001 * tokens)
    assert drive.step() == {"batch/0": 10}, "10 tokens take 10 ms"


def test_a_batch_evicts_nobodys_prefix():
    """With 16 blocks and a batch of any length, whoever comes back to a conversation finds it still."""
    drive = Drive(num_blocks=16, max_model_len=32, max_running=2)
    drive.add(request("chat", other(300, 20), max_tokens=2))
    drive.finish()
    for number in range(20):
        drive.add(request(f"batch{number}", other(400 + 20 * number, 14), max_tokens=2, priority=BACKGROUND))
        drive.finish()
    assert drive.stats.cached_blocks == 5, "the chat's five full blocks"
    drive.add(request("again", other(300, 20), max_tokens=2))
    assert drive.step() == {"again/0": 4}, "of its prefix the last block is computed, for its logits"


def test_what_the_background_found_cached_stays_so():
    drive = Drive(num_blocks=16, max_model_len=32, max_running=2)
    drive.add(request("chat", other(300, 20), max_tokens=2))
    drive.finish()
    drive.add(request("batch", [*other(300, 12), *other(700, 8)], max_tokens=2, priority=BACKGROUND))
    drive.finish()
    assert drive.stats.cached_blocks == 5


def test_nobody_drafts_for_what_pauses():
    drive = Drive(max_step_tokens=16)
    drive.add(request("batch", 4, max_tokens=9, priority=BACKGROUND))
    drive.step()
    assert [each.request_id for each in drive.scheduler.decoding] == ["batch"]
    drive.add(request("chat", other(300, 6), max_tokens=3))
    drive.step()
    assert [each.request_id for each in drive.scheduler.decoding] == ["chat"]
