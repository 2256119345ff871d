"""A file in a multipart form, written to disk as it comes in."""

from dataclasses import dataclass, field

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from servery.batch.file_store import FileStore, Upload
from servery.server.interrupt import ClientGone
from servery.server.request import Request
from servery.wire.errors import ApiError, invalid, shown, unsupported

_MAX_FIELD_BYTES = 1 << 10


@dataclass(slots=True)
class Form:
    """What a form had: one file and short fields."""

    upload: Upload
    filename: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    has_file: bool = False


async def receive_form(request: Request, store: FileStore, allowed: frozenset[str]) -> Form:
    """Read the form; the caller finishes or abandons the upload. `allowed` are the fields beside `file`.

    Raises `ApiError` (400, 413, 415), having abandoned the upload, and `ClientGone`.
    """
    form = Form(store.upload())
    try:
        reader = _Reader(form, allowed)
        parser = MultipartParser(_boundary(request), callbacks=reader.callbacks())  # type: ignore[arg-type]
        while True:
            event = await request.receive()
            if event["type"] == "http.disconnect":
                raise ClientGone
            _feed(parser, event.get("body", b""))
            if not event.get("more_body", False):
                break
        reader.check()
    except BaseException:
        form.upload.abandon()
        raise
    return form


def _feed(parser: MultipartParser, data: bytes) -> None:
    try:
        parser.write(data)
    except MultipartParseError as error:
        raise invalid(f"The form is not valid multipart/form-data: {error}.", code="invalid_form") from None


def _boundary(request: Request) -> bytes:
    media, options = parse_options_header(request.headers.get(b"content-type", b""))
    boundary = options.get(b"boundary", b"")
    if media != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        message = "Send the file as 'multipart/form-data' with a boundary (curl: -F purpose=batch -F file=@NAME)."
        raise ApiError(415, message, code="unsupported_media_type")
    return boundary


class _Reader:
    """Takes what the parser finds."""

    def __init__(self, form: Form, allowed: frozenset[str]) -> None:
        self._form = form
        self._allowed = allowed
        self._header = self._value = b""
        self._disposition = b""
        self._name = ""
        self._text = bytearray()
        self._is_ended = False

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._all,
        }

    def check(self) -> None:
        """Raise `ApiError` unless the form was complete."""
        if not self._is_ended:
            raise invalid("The form ends in the middle; its last boundary is missing.", code="invalid_form")
        if not self._form.has_file:
            raise invalid("Missing required parameter: 'file'.", "file", "missing_required_parameter")

    def _begin(self) -> None:
        self._header = self._value = self._disposition = b""
        self._text.clear()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == "file":
            if self._form.has_file:
                raise invalid("The form has more than one 'file'; send one at a time.", "file")
            self._form.has_file = True
            self._form.filename = options.get(b"filename", b"upload").decode("utf-8", "replace")[:255]
        elif self._name not in self._allowed:
            raise unsupported(shown(self._name), "the form may have 'file' and 'purpose' only.")
        elif self._name in self._form.fields:
            raise invalid(f"The form has '{self._name}' twice.", self._name)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self._form.upload.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _MAX_FIELD_BYTES:
            raise invalid(f"'{self._name}' is longer than {_MAX_FIELD_BYTES} bytes.", self._name)

    def _end(self) -> None:
        if self._name != "file":
            self._form.fields[self._name] = self._text.decode("utf-8", "replace")

    def _all(self) -> None:
        self._is_ended = True
