"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`: adapters come and go while the server runs."""

import asyncio
from pathlib import Path

from servery.engine.adapter_source import CONFIG_FILE, WEIGHTS_FILE
from servery.server.service import Exchange, Service, only_model
from servery.upstream.upstream import Upstream
from servery.wire.adapters import decode_load, decode_unload, encode_loaded, encode_unloaded
from servery.wire.errors import ApiError, invalid, shown

_TEXT = "text/plain; charset=utf-8"


async def load(service: Service, exchange: Exchange) -> None:
    """Load an adapter from a folder below the one that the operator named."""
    request = decode_load(await exchange.body(service.options))
    exchange.subject = f"{request.lora_name} from {request.lora_path}"
    root = _require_folder(service)
    base = service.base(only_model(service, request.model))
    if f"{base.name}:{request.lora_name}" in service.upstreams:
        raise invalid(f"A model is named '{base.name}:{request.lora_name}' already; take another name.", "lora_name")
    path = await asyncio.to_thread(adapter_folder, root, request.lora_path)
    await base.load_adapter(request.lora_name, path)
    await exchange.reply.whole(encode_loaded(request.lora_name), content_type=_TEXT)


async def unload(service: Service, exchange: Exchange) -> None:
    """Take an adapter's name away; what is being answered with it is finished."""
    request = decode_unload(await exchange.body(service.options))
    exchange.subject = request.lora_name
    _require_folder(service)
    users = unload_adapter(service, service.base(only_model(service, request.model)), request.lora_name)
    await exchange.reply.whole(encode_unloaded(request.lora_name, users), content_type=_TEXT)


def unload_adapter(service: Service, base: Upstream, name: str) -> int:
    """Take its name away from an adapter of `base`; returns how many requests still use it. Raises `ApiError`."""
    _require_folder(service)
    return base.unload_adapter(name)


def adapter_folder(root: Path, given: str) -> Path:
    """The folder that `given`, absolute or from `root`, names below `root`; links are followed before that is judged.

    Raises `ApiError` for what is no adapter's folder or lies elsewhere, without telling what there is elsewhere.
    """
    outside = invalid(
        f"'lora_path' is '{shown(given)}'; it must name an adapter's folder below the server's --lora-dir.", "lora_path"
    )
    if not given or "\0" in given:
        raise outside
    real_root = root.resolve()
    try:
        folder = (real_root / given).resolve(strict=True)
        parts = [folder, *((folder / name).resolve() for name in (CONFIG_FILE, WEIGHTS_FILE))]
    except (OSError, RuntimeError):  # RuntimeError: links that lead in a circle
        raise outside from None
    if not folder.is_dir() or folder == real_root or not all(part.is_relative_to(real_root) for part in parts):
        raise outside
    return folder


def _require_folder(service: Service) -> Path:
    root = service.options.lora_dir
    if root is None:
        message = "This server loads no adapters while it runs; it must be started with --lora-dir for that."
        raise ApiError(403, message, code="lora_loading_disabled")
    return root
