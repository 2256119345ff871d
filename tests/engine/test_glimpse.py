from servery.engine.blocks import BlockPool, chain
from servery.engine.glimpse import EVERY_S, LOOK_S, MOST_CELLS, MOST_STEPS, Glimpse, Onlooker, StepMix, mix_of
from servery.engine.request import NewRequest, SamplingParams, Sequence
from servery.engine.step import Scheduled, Step


def sequence(number: int) -> Sequence:
    return Sequence(NewRequest(request_id=f"r{number}", prompt=[1, 2], params=SamplingParams()), 0, 0, 0.0)


def step(*parts: tuple[int, bool, int]) -> Step:
    return Step(
        tuple(Scheduled(sequence(at), 0, count, samples, drafts) for at, (count, samples, drafts) in enumerate(parts))
    )


def test_a_step_is_told_by_what_its_positions_are_for() -> None:
    mixed = step((1, True, 0), (4, True, 3), (100, False, 0), (17, True, 0))
    assert mix_of(mixed, 0.0123456) == StepMix(2, 117, 3, 4, 12.346)


def test_a_cell_tells_how_much_of_its_blocks_is_held_and_cached() -> None:
    pool = BlockPool(7)
    blocks = pool.take(4)
    assert blocks == [0, 1, 2, 3]
    pool.index.publish(0, chain(b"", [1]))
    pool.index.publish(1, chain(b"", [2]))
    pool.share([2])
    pool.release([1])
    assert pool.cells(1) == bytes([0xF0, 0x0F, 0xF0, 0xF0, 0, 0, 0])
    assert pool.cells(2) == bytes([0x88, 0xF0, 0, 0])
    assert pool.cells(7) == bytes([0x73])  # 3 of 7 held, 1 cached, in fifteenths and rounded up
    assert pool.shared_blocks == 1


def test_nothing_is_gathered_unless_somebody_looks_and_not_for_long_after() -> None:
    onlooker, pool = Onlooker(), BlockPool(3 * MOST_CELLS + 1)
    assert not onlooker.is_on
    onlooker.look(100.0)
    first = onlooker.glimpse(pool, 100.0)
    assert first is not None
    assert (first.steps, first.blocks_per_cell, len(first.cells)) == ([], 4, 769)
    for _ in range(MOST_STEPS + 5):
        onlooker.note(step((1, True, 0)), 0.001)
    assert onlooker.glimpse(pool, 100.0 + EVERY_S / 2) is None
    onlooker.look(101.0)
    second = onlooker.glimpse(pool, 101.0)
    assert second is not None
    assert (len(second.steps), second.num_steps) == (MOST_STEPS, MOST_STEPS + 5)
    onlooker.note(step((1, True, 0)), 0.001)
    assert onlooker.is_on
    assert onlooker.glimpse(pool, 101.0 + LOOK_S) is None
    assert not onlooker.is_on
    onlooker.look(200.0)
    third = onlooker.glimpse(pool, 200.0)
    assert third is not None
    assert third.steps == []


def test_no_step_is_lost_of_two_glimpses_that_come_before_somebody_looks() -> None:
    def seen(first: int, count: int, held: int) -> Glimpse:
        steps = [StepMix(number, 0, 0, 1, 1.0) for number in range(first, first + count)]
        return Glimpse(steps, count, b"", 1, held, 0, 0)

    assert seen(3, 2, held=7).after(seen(1, 2, held=9)) == seen(1, 4, held=7)
    many = seen(MOST_STEPS, MOST_STEPS, held=0).after(seen(0, MOST_STEPS, held=0))
    assert (many.steps, many.num_steps) == (seen(MOST_STEPS, MOST_STEPS, held=0).steps, 2 * MOST_STEPS)
