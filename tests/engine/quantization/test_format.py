from pathlib import Path

import pytest

from servery.engine.checkpoint import StoredTensor
from servery.engine.errors import LoadError
from servery.engine.quantization.format import StoredModule


def test_a_module_remembers_what_was_asked_for() -> None:
    tensors: dict[str, StoredTensor] = {"weight": None, "scales": None, "g_idx": None}  # type: ignore[dict-item]
    module = StoredModule("layers.0.up", tensors, Path("model.safetensors"))
    assert "g_idx" in module
    assert "zeros" not in module
    module.need("weight")
    module.get("scales")
    module.get("zeros")
    assert (module.used, sorted(module)) == ({"weight", "scales"}, ["g_idx", "scales", "weight"])


def test_a_tensor_that_a_format_needs_is_named_when_it_is_missing() -> None:
    with pytest.raises(LoadError, match=r"model.safetensors lacks tensor layers.0.up.qweight. Download"):
        StoredModule("layers.0.up", {}, Path("model.safetensors")).need("qweight")
