"""Batches on disk."""

from pathlib import Path

from servery.batch.batch_store import BatchStore
from servery.wire.batches import BatchRequest, RequestCounts


def test_a_batch_keeps_the_key_that_it_was_asked_with(tmp_path: Path) -> None:
    store = BatchStore(tmp_path)
    request = BatchRequest(input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h")
    batch = store.create(b"tenant", request, "key_1")
    store.note(batch.id, RequestCounts(2, 1, 0))
    store.change(batch.id, status="in_progress")
    again = BatchStore(tmp_path)
    assert [(each.key(batch.id), each.owner(batch.id)) for each in (store, again)] == [("key_1", b"tenant")] * 2
    assert again.key(again.create(b"", request).id) == ""
