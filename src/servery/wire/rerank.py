"""`POST /v1/rerank`, in the form that Jina, Cohere and vLLM share: which documents are closest to a query."""

import math
from collections.abc import Sequence

import msgspec

from servery.wire.body import decode
from servery.wire.errors import invalid

MAX_DOCUMENTS = 2048


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text to be ranked, as an object."""

    text: str


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Documents to be ranked by a query; of the result the first `top_n` are wanted, with their texts unless told not to."""

    model: str
    query: str
    documents: list[str | Document]
    top_n: int | None = None
    return_documents: bool | None = None
    user: str | None = None

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [each if isinstance(each, str) else each.text for each in self.documents]

    def check(self) -> None:
        """Raise `ApiError` for what no type can express."""
        if not self.query:
            raise invalid("'query' is empty; at least one character is needed.", "query")
        if not self.documents:
            raise invalid("'documents' is empty; at least one document is needed.", "documents")
        if len(self.documents) > MAX_DOCUMENTS:
            message = f"'documents' has {len(self.documents)} items; at most {MAX_DOCUMENTS} are allowed."
            raise invalid(message, "documents")
        for at, text in enumerate(self.texts):
            if not text:
                raise invalid(f"'documents[{at}]' is empty; at least one character is needed.", f"documents[{at}]")
        if self.top_n is not None and self.top_n < 1:
            raise invalid(f"'top_n' is {self.top_n}; it must be at least 1.", "top_n")


class _Result(msgspec.Struct, frozen=True, omit_defaults=True):
    index: int
    relevance_score: float
    document: Document | None = None


class _RerankUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class _Ranking(msgspec.Struct, frozen=True):
    id: str
    model: str
    results: list[_Result]
    usage: _RerankUsage
    object: str = "list"


_DECODER = msgspec.json.Decoder(RerankRequest)


def decode_rerank(body: bytes) -> RerankRequest:
    """A checked request; raises `ApiError`."""
    request = decode(body, _DECODER)
    request.check()
    return request


def ranked(query: Sequence[float], documents: Sequence[Sequence[float]]) -> list[tuple[int, float]]:
    """Each document's number and its cosine with the query, closest first, of equal ones the first.

    All vectors have length 1, or are zero: such a text is at right angles to everything.
    """
    cosines = [math.fsum(a * b for a, b in zip(query, document, strict=True)) for document in documents]
    scores = [min(1.0, max(-1.0, cosine)) for cosine in cosines]  # rounding may lead beyond
    return sorted(enumerate(scores), key=lambda each: -each[1])


def encode_ranking(
    answer_id: str, request: RerankRequest, vectors: Sequence[Sequence[float]], prompt_tokens: int
) -> bytes:
    """The body of the answer; the first of `vectors` is the query's, the others are the documents'."""
    texts, is_told = request.texts, request.return_documents is not False
    results = [
        _Result(index, score, Document(texts[index]) if is_told else None)
        for index, score in ranked(vectors[0], vectors[1:])[: request.top_n]
    ]
    return msgspec.json.encode(_Ranking(answer_id, request.model, results, _RerankUsage(prompt_tokens, prompt_tokens)))
