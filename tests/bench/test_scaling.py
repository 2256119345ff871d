from servery.bench.scaling import measure


def test_what_cores_do_together_is_told_as_a_multiple_of_one() -> None:
    """No bound above: one core may have been slow by chance. Together they do more than nothing."""
    found = measure(2, buffer_bytes=1 << 20, rounds=2)

    assert found.threads == 2
    assert found.reading > 0
    assert found.multiplying > 0
