import json
from pathlib import Path

import pytest

from servery.engine.errors import LoadError
from servery.engine.quantization.checkpoint_format import read_format
from servery.engine.quantization.format import DenseFormat


def _config(tmp_path: Path, **fields: object) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(fields))
    return tmp_path


def test_without_a_quantization_config_weights_are_dense(tmp_path: Path) -> None:
    assert isinstance(read_format(_config(tmp_path, quantization_config=None)), DenseFormat)


@pytest.mark.parametrize("method", ["exl9", None])
def test_a_method_that_nobody_knows_is_refused_with_those_that_are_supported(
    method: str | None, tmp_path: Path
) -> None:
    path = _config(tmp_path, quantization_config={"quant_method": method})
    with pytest.raises(LoadError, match=f"quant_method is {json.dumps(method)}; supported: awq, gptq, fp8, "):
        read_format(path)
