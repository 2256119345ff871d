"""The bandwidth is measured over a buffer that no cache holds, by as many threads as asked."""

import pytest

from servery.bench.bandwidth import BUFFER_BYTES, measure


def test_a_measurement_says_what_was_read_how() -> None:
    found = measure(threads=2, rounds=3)
    assert (found.threads, found.buffer_bytes, found.rounds) == (2, BUFFER_BYTES, 3)
    assert found.best_bytes_per_s >= found.median_bytes_per_s > 0
    assert BUFFER_BYTES >= 512 << 20


def test_a_buffer_that_a_cache_could_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="caches would be measured"):
        measure(threads=1, buffer_bytes=1 << 20)
