"""`/v1/batches`: have the requests in a file answered when there is nothing else to do."""

from servery.batch.batch_store import ENDED
from servery.batch.disk import disk_faults_told
from servery.server.service import Exchange, Service
from servery.server.storage import read_page
from servery.wire.batches import decode_batch_request, encode_batch
from servery.wire.errors import ApiError, invalid
from servery.wire.files import encode_list


async def create(service: Service, exchange: Exchange) -> None:
    """Begin a batch."""
    request = decode_batch_request(await exchange.body(service.options))
    storage = service.stored
    file = storage.files.get(exchange.owner, request.input_file_id, "input_file_id")
    if file.purpose != "batch":
        message = f"The file '{file.id}' was left for '{file.purpose}'; a batch needs one for 'batch'."
        raise invalid(message, "input_file_id")
    with disk_faults_told():
        batch = storage.batches.create(exchange.owner, request, exchange.caller.key)
    storage.runner.wake()
    await exchange.reply.whole(encode_batch(batch))


async def listed(service: Service, exchange: Exchange) -> None:
    """The client's batches."""
    page = read_page(exchange.request.query)
    batches, has_more = page.of(service.stored.batches.of(exchange.owner))
    await exchange.reply.whole(encode_list(batches, has_more=has_more))


async def retrieve(service: Service, exchange: Exchange) -> None:
    """How far a batch is."""
    await exchange.reply.whole(encode_batch(service.stored.batches.get(exchange.owner, exchange.arguments["id"])))


async def cancel(service: Service, exchange: Exchange) -> None:
    """End a batch early; what has been answered is kept."""
    storage = service.stored
    batch = storage.batches.get(exchange.owner, exchange.arguments["id"])
    if batch.status in ENDED or batch.status == "finalizing":
        raise ApiError(409, f"The batch is {batch.status}; it cannot be cancelled any more.", code="batch_ended")
    with disk_faults_told():
        changed = batch if batch.status == "cancelling" else storage.runner.cancel(batch)
    await exchange.reply.whole(encode_batch(changed))
