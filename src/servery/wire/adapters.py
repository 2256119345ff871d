"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, in the form that vLLM gave them."""

import msgspec

from servery.wire.body import decode
from servery.wire.errors import unsupported


class LoadAdapterRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An adapter to be asked for by name; `model` is its base, which may be left out where one model is served."""

    lora_name: str
    lora_path: str
    model: str | None = None
    load_inplace: bool | None = None


class UnloadAdapterRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An adapter that nobody shall ask for any more."""

    lora_name: str
    model: str | None = None


_LOAD = msgspec.json.Decoder(LoadAdapterRequest)
_UNLOAD = msgspec.json.Decoder(UnloadAdapterRequest)


def decode_load(body: bytes) -> LoadAdapterRequest:
    """A checked request; raises `ApiError`."""
    request = decode(body, _LOAD)
    if request.load_inplace:
        raise unsupported("load_inplace", "unload the adapter first; requests that use it then are finished with it.")
    return request


def decode_unload(body: bytes) -> UnloadAdapterRequest:
    """A checked request; raises `ApiError`."""
    return decode(body, _UNLOAD)


def encode_loaded(name: str) -> bytes:
    """The text that answers a load."""
    return f"Success: LoRA adapter '{name}' added successfully.".encode()


def encode_unloaded(name: str, users: int) -> bytes:
    """The text that answers an unload; `users` requests are still being answered with the adapter."""
    rest = f" It is in use by {users} under way, which are finished first." if users else ""
    return f"Success: LoRA adapter '{name}' removed successfully.{rest}".encode()
