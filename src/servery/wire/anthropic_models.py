"""`GET /v1/models` and `/v1/models/{id}` as Anthropic's clients read them, and how its clients are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec

from servery.wire.errors import invalid, shown
from servery.wire.models import Model

# Anthropic's API wants this header from every client, and OpenAI's clients do not send it.
_HEADER = b"anthropic-version"
_MODELS_PER_PAGE, _MOST_PER_PAGE = 20, 1000


def is_anthropic(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request with these headers, in lower case, comes from a client of Anthropic's API."""
    return _HEADER in headers


@dataclass(frozen=True, slots=True)
class ModelPage:
    """Which part of the list a client asks for: `limit` models after one, or before one, or from the start."""

    limit: int = _MODELS_PER_PAGE
    after_id: str | None = None
    before_id: str | None = None

    def of(self, models: Sequence[Model]) -> tuple[Sequence[Model], bool]:
        """The models of this page, and whether more follow in its direction; raises `ApiError` for an unknown id."""
        if self.before_id is not None:
            end = _index(models, self.before_id, "before_id")
            return models[max(0, end - self.limit) : end], end > self.limit
        begin = 0 if self.after_id is None else _index(models, self.after_id, "after_id") + 1
        return models[begin : begin + self.limit], len(models) > begin + self.limit


def read_model_page(query: bytes) -> ModelPage:
    """The page that a query string asks for; raises `ApiError`. Every model here is active."""
    given = {name: values[-1] for name, values in parse_qs(query.decode("latin-1"), keep_blank_values=True).items()}
    given.pop("beta", None)  # the client's path for what Anthropic calls beta: the same list
    if given.pop("lifecycle[]", "active") != "active":
        raise invalid("'lifecycle' must be 'active': every model here is.", "lifecycle")
    limit = given.pop("limit", str(_MODELS_PER_PAGE))
    if not (limit.isascii() and limit.isdecimal() and len(limit) <= 4 and 1 <= int(limit) <= _MOST_PER_PAGE):
        raise invalid(f"'limit' is '{shown(limit)}'; it must be a number from 1 to {_MOST_PER_PAGE}.", "limit")
    page = ModelPage(int(limit), given.pop("after_id", None), given.pop("before_id", None))
    if given:
        name = shown(next(iter(given)))
        raise invalid(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    if page.after_id is not None and page.before_id is not None:
        raise invalid("'after_id' and 'before_id' exclude each other.", "before_id")
    return page


def _index(models: Sequence[Model], model_id: str, param: str) -> int:
    ids = [model.id for model in models]
    if model_id not in ids:
        raise invalid(f"'{param}' is '{shown(model_id)}', which is not in the list.", param)
    return ids.index(model_id)


def encode_anthropic_model(model: Model) -> bytes:
    """The body of `/v1/models/{id}`."""
    return msgspec.json.encode(_shown(model))


def encode_anthropic_models(models: Sequence[Model], *, has_more: bool) -> bytes:
    """A page of `/v1/models`."""
    ends = {"first_id": models[0].id, "last_id": models[-1].id} if models else {"first_id": None, "last_id": None}
    return msgspec.json.encode({"data": [_shown(model) for model in models], "has_more": has_more, **ends})


def _shown(model: Model) -> dict[str, Any]:
    """Prompt and answer share `max_model_len`, so each alone can at most be one token shorter."""
    limit = None if model.max_model_len is None else model.max_model_len - 1
    created = datetime.fromtimestamp(model.created, UTC)
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": limit,
        "max_tokens": limit,
    }
