"""What is answered for somebody in the same process leaves a row like everything else."""

from servery.batch.work import Asked
from servery.server.storage import Answering
from servery.upstream.caller import Caller
from servery.upstream.upstream import Chunk
from tests.gateway.scripted import Scripted, Stage
from tests.gateway.virtual_time import run


def test_a_request_of_a_batch_is_in_the_ledger_as_its_owners_under_the_id_that_its_results_have() -> None:
    """Its results named an id that was nowhere else, and its row had no owner."""

    async def story() -> None:
        made = Stage({"a": Scripted([Chunk(data=b"{}")])})
        callers = {"k1": Caller(tenant=b"somebody", key="k1", owner="apps")}
        answering = Answering(lambda name, caller: (name, name), made.gateway.collect, callers.__getitem__)
        body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
        asked = Asked(endpoint="/v1/chat/completions", body=body, owner=b"somebody", request_id="req_7", key="k1")
        assert await answering.answer(asked) == b"{}"
        (row,) = made.rows.rows
        assert (row.request_id, row.key_id, row.owner, row.outcome) == ("req_7", "k1", "apps", "completed")

    run(story)
