"""`POST /v1/embeddings`."""

import base64
import math
import struct

import msgspec

from servery.wire.body import decode
from servery.wire.errors import invalid
from servery.wire.texts import Texts, check_texts, split_texts

MAX_INPUTS = 2048


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts, or token ids, to be turned into vectors; `dimensions` keeps the first so many and scales to length 1 again."""

    model: str
    input: Texts
    encoding_format: str | None = None
    dimensions: int | None = None
    user: str | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        """Every input on its own."""
        return split_texts(self.input)

    def check(self) -> None:
        """Raise `ApiError` for what no type can express."""
        check_texts(self.input, "input", MAX_INPUTS)
        if self.encoding_format not in (None, "float", "base64"):
            message = f"Invalid value for 'encoding_format': '{self.encoding_format}'. Use 'float' or 'base64'."
            raise invalid(message, "encoding_format")
        if self.dimensions is not None and self.dimensions < 1:
            raise invalid(f"'dimensions' is {self.dimensions}; it must be at least 1.", "dimensions")


class _Embedding(msgspec.Struct, frozen=True):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class _EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class _EmbeddingList(msgspec.Struct, frozen=True):
    data: list[_Embedding]
    model: str
    usage: _EmbeddingUsage
    object: str = "list"


_DECODER = msgspec.json.Decoder(EmbeddingRequest)


def decode_embedding(body: bytes) -> EmbeddingRequest:
    """A checked request; raises `ApiError`."""
    request = decode(body, _DECODER)
    request.check()
    return request


def unit_vector(vector: list[float], dimensions: int | None) -> list[float]:
    """The first `dimensions` numbers, scaled to length 1; a vector of zeros stays as it is."""
    kept = vector[:dimensions]
    length = math.sqrt(math.fsum(number * number for number in kept))
    return [number / length for number in kept] if length > 0 else kept


def encode_embeddings(model: str, vectors: list[list[float]], prompt_tokens: int, encoding: str | None) -> bytes:
    """The body of the answer; `encoding` base64 means little-endian 32-bit floats, None plain numbers."""
    shown = [_base64(vector) if encoding == "base64" else vector for vector in vectors]
    data = [_Embedding(index, vector) for index, vector in enumerate(shown)]
    return msgspec.json.encode(_EmbeddingList(data, model, _EmbeddingUsage(prompt_tokens, prompt_tokens)))


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
