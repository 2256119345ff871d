import json
from pathlib import Path

import pytest

from servery.engine.checkpoint import StoredTensor
from servery.engine.errors import LoadError
from servery.engine.quantization.format import DenseFormat, StoredModule, read_format


def _config(tmp_path: Path, **fields: object) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(fields))
    return tmp_path


def test_without_a_quantization_config_weights_are_dense(tmp_path: Path) -> None:
    assert isinstance(read_format(_config(tmp_path, quantization_config=None)), DenseFormat)


@pytest.mark.parametrize(("method", "shown"), [("exl9", "exl9"), (None, "an unnamed method")])
def test_a_method_that_nobody_knows_is_named(method: str | None, shown: str, tmp_path: Path) -> None:
    path = _config(tmp_path, quantization_config={"quant_method": method})
    with pytest.raises(LoadError, match=f"config.json: .* quantized with {shown}"):
        read_format(path)


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
