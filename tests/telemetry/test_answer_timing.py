from servery.telemetry.answer_timing import AnswerTiming


def test_the_first_token_of_any_completion_is_the_ttft() -> None:
    timing = AnswerTiming(arrived_s=10.0)

    assert timing.add(1, 1, 10.5) is None
    assert timing.add(0, 1, 11.0) is None
    assert (timing.ttft_s, timing.tokens) == (0.5, 2)


def test_gaps_are_between_tokens_of_one_completion() -> None:
    timing = AnswerTiming(arrived_s=0.0)
    timing.add(0, 1, 1.0)
    timing.add(1, 1, 1.25)

    assert timing.add(0, 2, 2.0) == 1.0
    assert timing.add(1, 1, 2.25) == 1.0


def test_tpot_is_the_mean_after_the_first_token_of_each_completion() -> None:
    timing = AnswerTiming(arrived_s=0.0)
    for now, tokens in ((1.0, 1), (2.0, 2), (3.0, 1)):
        timing.add(0, tokens, now)
    timing.add(1, 1, 1.0)

    assert timing.tpots_s == [2.0 / 3]
