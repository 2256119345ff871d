"""`/v1/files`: leave a file, list, read and remove files."""

from servery.server.interrupt import Reason
from servery.server.service import Exchange, Service
from servery.server.storage import read_page
from servery.server.upload import receive_form
from servery.wire.errors import invalid, shown
from servery.wire.files import PURPOSES, encode_deleted, encode_file, encode_list

_MOST_FILES = 10_000


async def create(service: Service, exchange: Exchange) -> None:
    """Take in a file."""
    files = service.stored.files
    exchange.interrupt.fire_after(service.options.request_timeout_s, Reason.SLOW_BODY)
    form = await receive_form(exchange.request, files, frozenset(("purpose",)))
    purpose = form.fields.get("purpose")
    if purpose not in PURPOSES:
        form.upload.abandon()
        given = "missing" if purpose is None else f"'{shown(purpose)}'"
        raise invalid(f"'purpose' is {given}; it must be one of {', '.join(sorted(PURPOSES))}.", "purpose")
    file = files.finish(form.upload, exchange.owner, form.filename, purpose)
    await exchange.reply.whole(encode_file(file))


async def listed(service: Service, exchange: Exchange) -> None:
    """The client's files."""
    page = read_page(exchange.request.query, "purpose", most=_MOST_FILES, limit=_MOST_FILES)
    purpose = page.others.get("purpose")
    owned = [file for file in service.stored.files.of(exchange.owner) if purpose in (None, file.purpose)]
    files, has_more = page.of(owned)
    await exchange.reply.whole(encode_list(files, has_more=has_more))


async def retrieve(service: Service, exchange: Exchange) -> None:
    """What a file is."""
    await exchange.reply.whole(encode_file(service.stored.files.get(exchange.owner, exchange.arguments["id"])))


async def content(service: Service, exchange: Exchange) -> None:
    """What is in a file."""
    files = service.stored.files
    file = files.get(exchange.owner, exchange.arguments["id"])
    await exchange.reply.file(files.content_path(file.id), file.bytes)


async def delete(service: Service, exchange: Exchange) -> None:
    """Remove a file; one that a batch is reading is kept until that has ended."""
    file_id = exchange.arguments["id"]
    for batch in service.stored.batches.unfinished():
        if batch.input_file_id == file_id:
            raise invalid(f"The file is being read by '{batch.id}'; cancel that first.", code="file_in_use")
    service.stored.files.delete(exchange.owner, file_id)
    await exchange.reply.whole(encode_deleted(file_id))
