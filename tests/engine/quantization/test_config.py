import json

import pytest

from servery.engine.errors import LoadError
from servery.engine.quantization.compressed_config import CompressedScheme, CompressedTensorsConfig
from servery.engine.quantization.config import (
    AwqConfig,
    BitsAndBytesConfig,
    Float8Config,
    GptqConfig,
    GptqLayout,
    read_quantization,
)
from servery.engine.quantization.module_names import SkippedModules


@pytest.fixture
def read(tmp_path):
    def read_settings(**settings):
        return in_files(tmp_path, **{"config.json": {"quantization_config": settings}})

    return read_settings


def in_files(folder, **files):
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return read_quantization(folder)


def compressed(weights=None, **scheme):
    weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True} | (weights or {})
    group = {"targets": ["Linear"], "weights": weights} | scheme
    return {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"group_0": group}}


def test_a_dense_checkpoint_has_no_quantization(tmp_path):
    assert in_files(tmp_path, **{"config.json": {"quantization_config": None}}) is None


def test_every_method_is_read(read):
    skipped = SkippedModules(("lm_head",))
    names = {"modules_to_not_convert": ["lm_head"]}
    assert [
        read(quant_method="awq", bits=4, group_size=128, zero_point=True, version="gemm", **names),
        read(quant_method="awq", w_bit=4, q_group_size=-1, version="GEMM"),
        read(quant_method="gptq", bits=4, group_size=128, desc_act=True, **names),
        read(quant_method="gptq", bits=8, group_size=-1, checkpoint_format="gptq_v2"),
        read(quant_method="fp8", activation_scheme="dynamic", weight_block_size=[128, 128], **names),
        read(quant_method="fp8", activation_scheme="static", ignored_layers=["lm_head"]),
        read(quant_method="fbgemm_fp8", activation_scale_ub=1200.0),
        read(quant_method="bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=None),
        read(quant_method="bitsandbytes", _load_in_8bit=True, llm_int8_skip_modules=["lm_head"]),
    ] == [
        AwqConfig(128, skipped),
        AwqConfig(None, SkippedModules()),
        GptqConfig(GptqLayout(4, 128), 1, True, skipped),
        GptqConfig(GptqLayout(8, None), 0, False, SkippedModules()),
        Float8Config((128, 128), skipped),
        Float8Config(None, skipped),
        Float8Config(None, SkippedModules()),
        BitsAndBytesConfig(4, SkippedModules()),
        BitsAndBytesConfig(8, skipped),
    ]


def test_gptq_modules_may_differ_by_pattern_and_the_first_that_fits_decides(read):
    config = read(
        quant_method="gptq",
        bits=4,
        group_size=128,
        dynamic={
            r"-:.*\.layers\.0\.": {},
            r"+:.*\.down_proj": {"bits": 8, "group_size": -1},
            r".*\.up_proj": {"bits": 8},
            r".*\.o_proj": None,
        },
    )
    modules = ["layers.0.mlp.down_proj", "layers.1.mlp.down_proj", "layers.1.mlp.up_proj", "layers.1.self_attn.o_proj"]
    assert [config.layout_of(f"model.{module}") for module in modules] == [
        None,
        GptqLayout(8, None),
        GptqLayout(8, 128),
        GptqLayout(4, 128),
    ]


def test_gptq_leaves_skipped_modules_alone(read):
    config = read(quant_method="gptq", bits=4, group_size=128, modules_to_not_convert=["mlp.gate"])
    assert config.layout_of("model.layers.0.mlp.gate") is None
    assert config.layout_of("model.layers.0.mlp.up_proj") == GptqLayout(4, 128)


def test_a_compressed_scheme_is_read(read):
    group = {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False, "actorder": "group"}
    block = {"type": "float", "strategy": "block", "block_structure": [128, 64]}
    dynamic = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}
    expected = {"targets": ("Linear",), "bits": 8, "is_float": False, "is_symmetric": True}
    expected |= {"format": "int-quantized", "group_size": None, "block": None, "rounds_input": False}
    expected |= {"is_ordered": False}
    assert [
        read(**compressed(weights, **scheme)).schemes
        for weights, scheme in [
            ({}, {"input_activations": dynamic}),
            (group, {"format": "pack-quantized"}),
            (block, {"input_activations": dynamic | {"type": "float"}}),
            (block | {"block_structure": "16x8"}, {}),
        ]
    ] == [
        (CompressedScheme(**expected | {"rounds_input": True}),),
        (
            CompressedScheme(
                **expected
                | {"format": "pack-quantized", "bits": 4, "is_symmetric": False, "group_size": 32, "is_ordered": True}
            ),
        ),
        (CompressedScheme(**expected | {"is_float": True, "block": (128, 64)}),),
        (CompressedScheme(**expected | {"is_float": True, "block": (16, 8)}),),
    ]


def test_the_strategy_of_a_compressed_scheme_follows_from_its_group_size(read):
    weights = [{"strategy": None, "group_size": size} for size in (None, -1, 64)]
    assert [read(**compressed(each)).schemes[0].group_size for each in weights] == [None, None, 64]


def test_the_most_special_target_decides_and_ignored_modules_have_no_scheme(read):
    groups = {
        "everything": {"targets": ["Linear"], "weights": {"num_bits": 4}},
        "by_pattern": {"targets": [r"re:.*down_proj$"], "weights": {"num_bits": 8}},
        "by_name": {"targets": ["model.layers.1.mlp.down_proj"], "weights": {"num_bits": 8, "symmetric": False}},
    }
    config = read(
        quant_method="compressed-tensors",
        format="pack-quantized",
        config_groups=groups,
        ignore=["lm_head", r"re:model\.layers\.0\."],
    )
    assert isinstance(config, CompressedTensorsConfig)
    everything, by_pattern, by_name = config.schemes
    assert [
        config.scheme_of(module)
        for module in [
            "model.layers.1.mlp.up_proj",
            "model.layers.2.mlp.down_proj",
            "model.layers.1.mlp.down_proj",
            "model.layers.0.mlp.down_proj",
            "lm_head",
        ]
    ] == [everything, by_pattern, by_name, None, None]


def test_a_module_that_no_scheme_targets_has_none(read):
    assert read(**compressed(targets=[r"re:.*mlp"])).scheme_of("model.layers.0.self_attn.q_proj") is None


def test_old_checkpoints_name_the_field_differently(tmp_path, read):
    assert in_files(tmp_path, **{"config.json": {"compression_config": compressed()}}) == read(**compressed())


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 32}, {"quant_method": "gptq", "bits": 4, "group_size": 32}),
        ("quantize_config.json", {"quant_method": "awq", "bits": 4, "group_size": 32}, None),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 32}, {"quant_method": "awq", "bits": 4, "group_size": 32}),
    ],
)
def test_old_checkpoints_have_a_file_of_their_own(name, content, expected, tmp_path, read):
    found = in_files(tmp_path, **{"config.json": {}, name: content})
    assert found == read(**expected or content)


def test_an_old_file_is_named_in_an_error(tmp_path):
    with pytest.raises(LoadError, match=r"quantize_config.json: bits is 3; supported: 4, 8"):
        in_files(tmp_path, **{"config.json": {}, "quantize_config.json": {"bits": 3}})


METHODS = "awq, gptq, fp8, fbgemm_fp8, compressed-tensors, bitsandbytes, mxfp4"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, f"quant_method is missing; supported: {METHODS}."),
        ({"quant_method": "aqlm"}, f'quant_method is "aqlm"; supported: {METHODS}.'),
        ({"quant_method": ["awq"]}, f'quant_method is ["awq"]; supported: {METHODS}.'),
        ({"quant_method": "awq"}, "bits is missing; it must be a whole number of at least 1."),
        ({"quant_method": "awq", "bits": 8}, "bits is 8; supported: 4."),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 0},
            "group_size is 0; it must be a whole number of at least 1.",
        ),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, 'version is "gemv"; supported: gemm.'),
        (
            {"quant_method": "awq", "bits": 4, "zero_point": False},
            "zero_point is false; AWQ without zero points is not supported.",
        ),
        ({"quant_method": "gptq", "bits": 3}, "bits is 3; supported: 4, 8."),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"},
            'checkpoint_format is "marlin"; supported: gptq, gptq_v2.',
        ),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"+:.*up": {"bits": 2}}},
            "dynamic.+:.*up.bits is 2; supported: 4, 8.",
        ),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "modules_to_not_convert": "lm_head"},
            'modules_to_not_convert is "lm_head"; it must be a list of strings.',
        ),
        ({"quant_method": "fp8", "fmt": "e5m2"}, 'fmt is "e5m2"; supported: e4m3, float8_e4m3fn.'),
        (
            {"quant_method": "fp8", "activation_scheme": "none"},
            'activation_scheme is "none"; supported: dynamic, static.',
        ),
        (
            {"quant_method": "fp8", "weight_block_size": [128]},
            "weight_block_size is [128]; it must be two numbers: rows and columns of a block.",
        ),
        (
            {"quant_method": "bitsandbytes"},
            "load_in_4bit is missing; either it or load_in_8bit must be true.",
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "int4"},
            'bnb_4bit_quant_type is "int4"; supported: nf4, fp4.',
        ),
        (compressed() | {"config_groups": {}}, "config_groups is {}; it must map names to schemes."),
        (
            compressed() | {"format": "marlin-24"},
            'format is "marlin-24"; supported: pack-quantized, int-quantized, float-quantized, naive-quantized, mixed',
        ),
        (
            compressed() | {"format": "mixed-precision"},
            "config_groups.group_0.format is missing; supported: pack-quantized, int-quantized, float-quantized, ",
        ),
        (compressed() | {"sparsity_config": {"format": "sparse-24"}}, 'format is "sparse-24"; supported: dense.'),
        (
            compressed() | {"transform_config": {"config_groups": {"u": {}}}},
            'transform_config is {"config_groups": {"u": {}}}; transforms of activations are not supported.',
        ),
        (compressed({"num_bits": 3}), "config_groups.group_0.weights.num_bits is 3; supported: 4, 8."),
        (compressed({"type": "float", "num_bits": 4}), "weights.num_bits is 4; supported: 8."),
        (compressed({"strategy": "tensor_group"}), 'strategy is "tensor_group"; supported: tensor, channel, group.'),
        (
            compressed({"strategy": "token", "type": "float"}),
            'strategy is "token"; supported: tensor, channel, group, block.',
        ),
        (compressed({"strategy": "group"}), "weights.group_size is missing; it must be a whole number of at least 1."),
        (
            compressed({"type": "float", "strategy": "block", "block_structure": "4xx"}),
            'block_structure is "4xx"; it must be two',
        ),
        (compressed(weights=None) | {"config_groups": {"a": {"targets": ["Linear"]}}}, "a.weights is missing; only"),
        (compressed(targets=[]), "targets is []; it must list modules, patterns (re:...) or Linear."),
        (compressed(output_activations={"num_bits": 8}), "quantized outputs are not supported."),
        (
            compressed(input_activations={"num_bits": 4}),
            "config_groups.group_0.input_activations.num_bits is 4; supported: 8.",
        ),
        (compressed(input_activations={"num_bits": 8, "type": "float"}), 'type is "float"; supported: int.'),
    ],
)
def test_what_is_not_supported_is_refused_with_its_place(settings, message, read, tmp_path):
    with pytest.raises(LoadError) as caught:
        read(**settings)
    assert str(caught.value).startswith(f"{tmp_path}/config.json: quantization_config.")
    assert message in str(caught.value)
