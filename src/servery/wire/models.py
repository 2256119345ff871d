"""`/v1/models` and `/v1/models/{id}`."""

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A served model; `created` in Unix seconds, `max_model_len` in tokens (prompt and completion together).

    `state` says whether it is in memory: loaded, loading, releasing, sleeping (a request wakes it), unloaded, or failed:
    out of memory because of `load_error`.
    `root` is the model whose weights are used, `parent` the one that an adapter changes; None for a model of its own.
    """

    id: str
    object: str = "model"
    created: int
    owned_by: str = "servery"
    max_model_len: int | None = None
    root: str
    parent: str | None = None
    state: str = "loaded"
    load_error: str | None = None


class ModelList(msgspec.Struct, frozen=True):
    """All served models."""

    data: list[Model]
    object: str = "list"


def encode_model(model: Model) -> bytes:
    """The body of `/v1/models/{id}`."""
    return msgspec.json.encode(model)


def encode_deleted(model_id: str) -> bytes:
    """The body that answers a DELETE."""
    return msgspec.json.encode({"id": model_id, "object": "model", "deleted": True})


def encode_models(models: list[Model]) -> bytes:
    """The body of `/v1/models`."""
    return msgspec.json.encode(ModelList(models))
