"""Servery: an LLM serving stack — an inference engine, a gateway and the instruments to decide by."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from servery.engine.llm import LLM as LLM
    from servery.engine.request import SamplingParams as SamplingParams

__version__ = "0.1.0"
__all__ = ["LLM", "SamplingParams", "__version__"]

# Found when asked for, so that importing servery loads no torch.
_PLACES = {"LLM": "servery.engine.llm", "SamplingParams": "servery.engine.request"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
