"""Bytes of one answer in, a head and pieces of a body out. No I/O; stricter than the parser underneath.

httptools (llhttp) finds the parts. What it lets through and two implementations could read differently is refused here:
several or contradicting lengths, codings other than `chunked`, versions other than 1.0 and 1.1, bodies where there can
be none, endless interim answers, heads and trailers without measure. Source: RFC 9112 sections 6 and 11.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import httptools

from servery.http.errors import HeadTooLarge, HttpError, Malformed, UnsupportedEncoding
from servery.http.headers import Headers
from servery.http.known_head import KnownHead
from servery.http.whole_chunks import whole_chunks

_FRAMING = frozenset([b"content-length", b"transfer-encoding", b"content-encoding"])
_CHUNKED = {b"transfer-encoding": b"chunked"}
_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_MOST_KNOWN_BYTES = 4 << 10  # of a head that is kept
_SHOWN_BYTES = 40  # of what the server sent, in a message


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """What an answer may cost before its body."""

    head_bytes: int = 64 << 10  # also of everything else that is no body: chunk extensions, trailers
    fields: int = 256
    interim: int = 8  # 1xx answers


class Head(NamedTuple):
    """A complete head."""

    status: int
    version: str
    headers: Headers


class LastAnswer:
    """The last answers of one origin, one that came at once and one in chunks: what their heads said, and in which bytes."""

    __slots__ = ("_chunked", "_head", "_known")

    def __init__(self) -> None:
        self._known: KnownHead | None = None
        self._head: Head | None = None
        self._chunked: tuple[bytes, Head] | None = None

    def learn(self, data: bytes, head: Head, framing: Mapping[bytes, bytes]) -> None:
        """This was one, framed as `framing` says; no more is known of one that has more to it than its length."""
        digits = framing.get(b"content-length", b"")
        self._known = KnownHead.of(data, digits) if len(framing) == 1 else None
        self._head = head

    def read(self, data: bytes) -> tuple[Head, bytes] | None:
        """The head and the body of an answer with the same head, whatever its length; None for any other."""
        known, head = self._known, self._head
        found = None if known is None else known.read(data)
        if known is None or head is None or found is None:
            return None
        digits, body, missing = found
        if missing:
            return None
        if digits != known.digits:  # the next one may be as long as this
            known.digits = digits
            self._head = head = Head(head.status, head.version, head.headers.resized(digits))
        return head, body

    def learn_chunked(self, begin: bytes, head: Head) -> None:
        """This was one in chunks behind which the connection was kept; `begin` are its first bytes."""
        start = begin[: begin.find(_HEAD_END) + len(_HEAD_END)]
        is_plain = start.endswith(_HEAD_END) and start.count(b"\n") == start.count(b"\r\n")
        self._chunked = (start, head) if is_plain and len(start) <= _MOST_KNOWN_BYTES else None

    def begun(self, data: bytes) -> tuple[bytes, Head] | None:
        """The head of an answer in chunks that begins with `data`, and its bytes; None for another than the last one's."""
        return self._chunked if self._chunked is not None and data.startswith(self._chunked[0]) else None


class AnswerReader:
    """Reads one answer. After each `feed`: `head` once it is complete, `take` for new bytes of the body, `is_complete`.

    `is_reusable` tells, after the end, whether the connection can carry another exchange. What comes after the end is
    not part of any answer: it sets `has_surplus`, and the connection must not be used again.
    """

    def __init__(self, limits: AnswerLimits, *, is_bodyless: bool = False, last: LastAnswer | None = None) -> None:
        """`is_bodyless`: the answer to HEAD or CONNECT, whose head speaks of a body that does not come.

        `last` is the origin's, which is read by and learnt.
        """
        self.head: Head | None = None
        self.is_begun = False
        self.is_complete = False
        self.is_reusable = False
        self.has_surplus = False
        self.is_between_chunks = False  # of a body; whole ones that come now need not be fed
        self._limits = limits
        self._is_bodyless = is_bodyless
        self._last = None if is_bodyless else last
        self._parser: httptools.HttpResponseParser | None = None
        self.is_over = False  # nothing more is read
        self._start: bytes | None = b""  # the first bytes, until they are known to be right
        self._fields: list[tuple[bytes, bytes]] = []
        self._framing: dict[bytes, bytes] = {}
        self._head_bytes = 0  # of complete fields
        self._bytes_without_body = 0
        self._interim = 0
        self._pieces: list[bytes] = []
        self._is_in_chunk = True  # or no chunks are known of
        self._unparsed = b""  # a known head, as long as no parser was needed
        self._begin = b""  # the first bytes, until it is known whether the next answer may be known by them

    def feed(self, data: bytes) -> None:
        """Read on. Raises `Malformed`, `HeadTooLarge`, `UnsupportedEncoding`; what was read before stays."""
        if self.is_over:
            self.has_surplus = True
            self.is_reusable = False
            return
        is_first = not self.is_begun
        self.is_begun = True
        if is_first and self._last is not None:
            data = self._behind_known_head(data, self._last)
            if self.is_complete:
                return
        if self._unparsed and self._read_chunks(data):
            return
        parser = self._parser or self._made_parser()
        self._bytes_without_body += len(data)
        if self._start is not None:
            self._check_start(data)
        try:
            if self._is_bodyless:
                self._feed_lines(data)
            else:
                parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._broken(error, data)
        self.is_between_chunks = not self._is_in_chunk and data.endswith(b"\r\n")
        if self.is_complete:
            self._let_go()
            self._learn(data if is_first else b"")
        elif self._bytes_without_body > self._limits.head_bytes and not self._pieces:
            raise self._too_large()
        elif self._pieces:
            self._bytes_without_body = 0

    def feed_end(self) -> bool:
        """The server has closed in good order. Whether that completes the answer: a body may end with the connection."""
        if self.head is not None and not self.is_complete and self._ends_with_connection():
            self.is_complete = True
            self._let_go()
        return self.is_complete

    def take(self) -> bytes:
        """The bytes of the body that the last `feed` brought; may be empty."""
        pieces = self._pieces
        if not pieces:
            return b""
        self._pieces = []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Let go of the parser, in whatever state."""
        self._let_go()

    def _behind_known_head(self, data: bytes, last: LastAnswer) -> bytes:
        """What is behind a head that the last answer had as well, if this is one; a whole answer is read."""
        self._begin = data[:_MOST_KNOWN_BYTES]
        if (found := last.read(data)) is not None:
            self.head, body = found
            self._pieces = [body] if body else []
            self.is_complete = self.is_reusable = self.is_over = True
        elif (begun := last.begun(data)) is not None:
            self._unparsed, self.head = begun
            self._framing = dict(_CHUNKED)
            return data[len(self._unparsed) :]
        return data

    def _read_chunks(self, data: bytes) -> bool:
        """Whether it is whole chunks, perhaps with the end behind them: then it is read."""
        is_last = data.endswith(_LAST_CHUNK)
        chunks = data[: -len(_LAST_CHUNK)] if is_last else data
        body = whole_chunks(chunks) if chunks else b""
        if body is None:
            return False
        if body:
            self._pieces.append(body)
        self.is_between_chunks = True
        if is_last:
            self.is_complete = self.is_reusable = True
            self._let_go()
        return True

    def _made_parser(self) -> httptools.HttpResponseParser:
        """A new one, which has read what was read without it: whole chunks behind a head leave no trace in it."""
        parser = self._parser = httptools.HttpResponseParser(self)
        if self._unparsed:
            self._start = self.head = None
            parser.feed_data(self._unparsed)
            self._unparsed = b""
        return parser

    def _learn(self, whole: bytes) -> None:
        """Know the next answer by this one, which is complete; `whole` is all of it, where it came at once."""
        if self._last is None or self.head is None or not self.is_reusable:
            return
        if self._framing.keys() == _CHUNKED.keys():
            if not self._interim:
                self._last.learn_chunked(self._begin, self.head)
        elif whole:
            self._last.learn(whole, self.head, self._framing)

    def _let_go(self) -> None:
        self._parser = None  # also breaks the circle of references
        self.is_over = True

    # What httptools calls.

    def on_message_begin(self) -> None:
        """The first byte of an answer, or of what follows one."""
        if self.is_complete:
            raise Malformed("bytes after the answer")
        self._fields, self._framing = [], {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head or of the trailers."""
        self._head_bytes += len(name) + len(value) + 4
        self._fields.append((name, value := value.rstrip(b" \t")))
        if self._head_bytes > self._limits.head_bytes or len(self._fields) > self._limits.fields:
            raise self._too_large()
        lower = name.lower()
        if lower in _FRAMING and self.head is None:
            if lower in self._framing and lower != b"content-encoding":
                raise Malformed(f"{name.decode('latin-1')} is there twice.")
            self._framing[lower] = value

    def on_headers_complete(self) -> None:
        """The empty line after the fields."""
        assert self._parser is not None
        status, version = self._parser.get_status_code(), self._parser.get_http_version()
        self._check_head(status, version)
        if status < 200:
            self._interim += 1
            if self._interim > self._limits.interim:
                raise Malformed(f"more than {self._limits.interim} interim (1xx) answers.")
            return
        self.head = Head(status, version, Headers(self._fields))
        if not self._is_bodyless and status not in (204, 304):
            self._check_encoding()
        self._fields = []
        self._head_bytes = 0
        self._is_in_chunk = b"transfer-encoding" not in self._framing
        if self._is_bodyless:
            self.is_complete = True
            self.is_reusable = self._says_keep_alive(version)

    def on_body(self, data: bytes) -> None:
        """Bytes of the body."""
        if self.is_complete:
            raise Malformed("bytes after the answer")
        self._pieces.append(data)

    def on_chunk_header(self) -> None:
        """The size of a chunk, which may be the last."""
        self._is_in_chunk = True

    def on_chunk_complete(self) -> None:
        """The end of a chunk."""
        self._is_in_chunk = False

    def on_message_complete(self) -> None:
        """The end of an answer, be it an interim one."""
        if self.head is None or self.is_complete:
            return
        assert self._parser is not None
        self.is_complete = True
        self.is_reusable = self._parser.should_keep_alive()  # it knows only during this call

    def _feed_lines(self, data: bytes) -> None:
        """The parser takes what follows the head for a body, and says nothing of an empty one: stop it at the head."""
        for line in data.splitlines(keepends=True):
            if self.is_complete:
                self.has_surplus = True
                self.is_reusable = False
                return
            assert self._parser is not None
            self._parser.feed_data(line)

    def _check_start(self, data: bytes) -> None:
        """The parser also reads RTSP and ICE."""
        if data.startswith(b"HTTP/"):
            self._start = None
            return
        start = ((self._start or b"") + data[: 1 << 10]).lstrip(b"\r\n")[:5]
        if not b"HTTP/".startswith(start):
            self._let_go()
            raise Malformed(f"it does not begin like one of HTTP/1.1 but with {data[:_SHOWN_BYTES]!r}.")
        self._start = None if len(start) == 5 else start

    def _broken(self, error: httptools.HttpParserError, data: bytes) -> None:
        if self.is_complete:
            self.has_surplus = True
            self.is_reusable = False
            return
        self._let_go()
        cause = error.__context__
        if isinstance(cause, HttpError):
            raise type(cause)(str(cause)) from None
        raise Malformed(f"it is not HTTP/1.1 ({error}); the fault is in {data[:_SHOWN_BYTES]!r}.") from None

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"more than {self._limits.head_bytes} bytes or {self._limits.fields} fields without any of the body."
        )

    def _check_head(self, status: int, version: str) -> None:
        framing = self._framing
        coding = framing.get(b"transfer-encoding")
        if version not in ("1.1", "1.0"):
            raise Malformed(f"its version is HTTP/{version}.")
        if not 100 <= status <= 599 or status == 101:
            raise Malformed(f"its status is {status}.")
        if coding is None:
            if (status < 200 or status == 204) and framing.get(b"content-length", b"0") != b"0":
                raise Malformed(f"status {status} has no body, but its Content-Length is not 0.")
            return
        if b"content-length" in framing:
            raise Malformed("it has both Content-Length and Transfer-Encoding.")
        if coding.lower() != b"chunked" or version == "1.0" or status < 200 or status == 204:
            raise Malformed(f"Transfer-Encoding {coding[:_SHOWN_BYTES]!r} with HTTP/{version} and status {status}.")

    def _check_encoding(self) -> None:
        encoding = self._framing.get(b"content-encoding")
        if encoding is not None and encoding.lower() not in (b"", b"identity"):
            raise UnsupportedEncoding(
                f"the body is encoded as {encoding[:_SHOWN_BYTES]!r} although the request accepts only identity."
            )

    def _ends_with_connection(self) -> bool:
        return not self._framing.keys() & {b"content-length", b"transfer-encoding"}

    def _says_keep_alive(self, version: str) -> bool:
        assert self.head is not None
        options = {
            option.strip().lower() for value in self.head.headers.get_all(b"connection") for option in value.split(b",")
        }
        return b"close" not in options and (version == "1.1" or b"keep-alive" in options)
