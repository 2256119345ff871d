import pytest

from servery.engine.architecture import ModelConfig
from servery.engine.errors import LoadError
from servery.engine.quantization.scheme import Rounding, check_choice, plan_rounding, quantized_sources
from tests.engine import checkpoints


def _config(tmp_path, make=checkpoints.qwen3, **changes):
    return ModelConfig.load(checkpoints.save(make(**changes), tmp_path))


@pytest.mark.parametrize(("scheme", "rounding"), [("int8", Rounding(8)), ("fp8", Rounding(8, is_float=True))])
def test_8_bits_are_for_every_matrix_of_the_layers_and_nothing_else(scheme, rounding, tmp_path):
    plan = plan_rounding(_config(tmp_path, checkpoints.qwen3_moe), scheme)
    assert set(plan.roundings.values()) == {rounding}
    assert (plan.scheme, plan.method, plan.group_size) == (scheme, "round", None)
    assert plan.description == f"{scheme} by output channel, rounded as they are"
    assert "model.layers.0.mlp.experts.5.up_proj" in plan.roundings
    assert not [name for name in plan.roundings if "embed" in name or "head" in name or name.endswith("mlp.gate")]


@pytest.mark.parametrize(
    ("widths", "size"), [((128, 256), 128), ((64, 256), 64), ((96, 128), 32), ((128, 112), 128), ((160, 432), 32)]
)
def test_the_largest_size_that_divides_all_is_taken(widths, size, tmp_path):
    hidden, inner = widths
    config = _config(tmp_path, hidden_size=hidden, intermediate_size=inner, head_dim=hidden // 4)
    plan = plan_rounding(config, "int4")
    # 112 and 432 are multiples of none: such a matrix gets 8 bits.
    assert plan.roundings["model.layers.1.mlp.down_proj"] == (Rounding(4, size) if inner % 32 == 0 else Rounding(8))
    assert plan.roundings["model.layers.1.mlp.up_proj"] == Rounding(4, size)
    assert (plan.method, plan.group_size) == ("awq", size)


def test_a_size_that_does_not_divide_is_told_with_those_that_do(tmp_path):
    config = _config(tmp_path, hidden_size=64, intermediate_size=256)
    with pytest.raises(LoadError) as caught:
        plan_rounding(config, "int4", group_size=128)
    assert str(caught.value) == (
        "group_size 128 does not divide the 64 input features of model.layers.0.self_attn.q_proj; 32 and 64 would."
    )


def test_a_model_that_no_size_divides_is_told_to_use_int8(tmp_path):
    config = _config(tmp_path, hidden_size=48, intermediate_size=112, head_dim=12)
    with pytest.raises(LoadError, match=r"multiple of 32; this model's have 48, 112. Use int8"):
        plan_rounding(config, "int4")


@pytest.mark.parametrize("make", checkpoints.MODELS.values(), ids=checkpoints.MODELS)
def test_every_architecture_has_matrices_to_round(make, tmp_path):
    config = ModelConfig.load(checkpoints.save(make(), tmp_path))
    plan = plan_rounding(config, "int4")
    assert {source.module for source in quantized_sources(config)} == set(plan.roundings)
    assert plan.weight_bytes(config, 4) < config.weight_bytes(4)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (("int3", None, None, False), "quantize is 'int3'; choose one of int8, int4"),
        (("int4", 48, None, False), "group_size is 48; choose one of 128, 64, 32"),
        (("int4", None, "gptq", False), "quantize_method is 'gptq'; choose one of round, awq"),
        (("int8", 64, None, False), "group_size is 64, but int8 has a scale per output channel; leave it out"),
        (
            (None, 64, None, False),
            "group_size says how to quantize, but not to what: set quantize to int8, int4 or fp8",
        ),
        ((None, None, "awq", False), "quantize_method says how to quantize, but not to what"),
        ((None, None, None, True), "calibration says how to quantize, but not to what"),
        (("fp8", 64, None, False), "group_size is 64, but fp8 has a scale per output channel; leave it out"),
        (("fp8", None, "awq", False), "those of fp8 are rounded by the same share however large they are"),
        (("fp8", None, None, True), "calibration is for the method awq"),
        (("int8", None, None, True), "calibration is for the method awq"),
        (("int4", None, "round", True), "calibration is for the method awq"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(choice, message):
    with pytest.raises(LoadError, match=message):
        check_choice(*choice)


@pytest.mark.parametrize("choice", [(None, None, None, False), ("int8", None, "awq", True), ("int4", 32, None, True)])
def test_settings_that_go_together_are_taken(choice):
    check_choice(*choice)
