"""The program that measures quantized steps runs on a tiny model; its figures are positive and complete."""

import pytest

from benchmarks import quantized_steps
from benchmarks.quantized_steps import DENSE, STEPS, load_all, measure, table
from benchmarks.random_model import LLAMA_88M, make_model
from servery.engine.quantization.scheme import SCHEMES

SMALL = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def test_every_step_is_timed_for_every_scheme(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_steps, "CONTEXT", 16)
    models = load_all(make_model(tmp_path, LLAMA_88M | SMALL | HEADS))
    assert list(models) == [DENSE, *SCHEMES]
    assert models["int4"].weight_bytes < models["int8"].weight_bytes < models[DENSE].weight_bytes
    seconds = measure(models, 2)
    assert {step: set(of) for step, of in seconds.items()} == {step: set(models) for step in STEPS}
    assert all(each > 0 for of in seconds.values() for each in of.values())
    assert table(models, seconds).row_count == 1 + len(SCHEMES)
