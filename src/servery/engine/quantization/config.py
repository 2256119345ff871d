"""What a checkpoint's config.json says of weights that are stored quantized: `quantization_config`. No torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from servery.engine.gguf.files import find_gguf
from servery.engine.json_fields import JsonFields
from servery.engine.quantization.compressed_config import CompressedTensorsConfig
from servery.engine.quantization.module_names import SkippedModules, matches


@dataclass(frozen=True, slots=True)
class AwqConfig:
    """AWQ in AutoAWQ's `gemm` layout (arXiv 2306.00978): 4 bits, `group_size` input channels share a scale.

    `group_size` None: a scale per output channel.
    """

    group_size: int | None
    skipped: SkippedModules

    @classmethod
    def read(cls, fields: JsonFields) -> "AwqConfig":
        """Read `quantization_config`; old files name bits and group size `w_bit` and `q_group_size`."""
        fields.count_of("w_bit" if fields.has("w_bit") else "bits", (4,))
        fields.choice("format" if fields.has("format") else "version", ("gemm",), "gemm")
        if not fields.flag("zero_point", True):
            raise fields.error("zero_point", "AWQ without zero points is not supported")
        group_size = _group_size(fields, "q_group_size" if fields.has("q_group_size") else "group_size")
        return cls(group_size, SkippedModules(fields.strings("modules_to_not_convert")))


@dataclass(frozen=True, slots=True)
class GptqLayout:
    """How a GPTQ module is stored: bits of a code, and how many input channels share a scale (None: all of them)."""

    bits: int
    group_size: int | None


@dataclass(frozen=True, slots=True)
class GptqConfig:
    """GPTQ (arXiv 2210.17323) as AutoGPTQ and GPTQModel write it.

    `zero_offset` is what stored zero points lack: 1 in the first version of the format, 0 in `gptq_v2`.
    `is_ordered`: with act-order, so that each module must say which group an input channel belongs to.
    `overrides` are GPTQModel's `dynamic`: the first pattern that fits a module decides, None for unquantized ones.
    """

    layout: GptqLayout
    zero_offset: int
    is_ordered: bool
    skipped: SkippedModules
    overrides: tuple[tuple[str, GptqLayout | None], ...] = ()

    @classmethod
    def read(cls, fields: JsonFields) -> "GptqConfig":
        """Read `quantization_config`."""
        layout = _gptq_layout(fields, None)
        name = "checkpoint_format" if fields.has("checkpoint_format") else "format"
        version = fields.choice(name, ("gptq", "gptq_v2"), "gptq")
        fields.choice("pack_dtype", ("int32",), "int32")
        skipped = SkippedModules(fields.strings("modules_to_not_convert"))
        is_ordered = fields.flag("desc_act")
        return cls(layout, 1 if version == "gptq" else 0, is_ordered, skipped, _gptq_overrides(fields, layout))

    def layout_of(self, module: str) -> GptqLayout | None:
        """How `module` is stored if it is quantized, None if it is left alone."""
        for pattern, layout in self.overrides:
            if matches(pattern, module):
                return layout
        return None if module in self.skipped else self.layout


@dataclass(frozen=True, slots=True)
class Float8Config:
    """Weights in 8-bit floats (e4m3), with scales per tensor, per output channel or per block.

    `block` is (rows, columns) of a block, None for the other two, which the shape of the scales tells apart.
    """

    block: tuple[int, int] | None
    skipped: SkippedModules

    @classmethod
    def read(cls, fields: JsonFields) -> "Float8Config":
        """Read `quantization_config` of the methods `fp8` and `fbgemm_fp8`."""
        fields.choice("fmt", ("e4m3", "float8_e4m3fn"), "e4m3")
        fields.choice("activation_scheme", ("dynamic", "static"), "dynamic")
        fields.choice("expert_dtype", ("fp8",), "fp8")
        fields.choice("scale_fmt", ("float", "ue8m0"), "float")
        names = fields.strings("modules_to_not_convert") + fields.strings("ignored_layers")
        block = fields.block("weight_block_size") if fields.has("weight_block_size") else None
        return cls(block, SkippedModules(names))


@dataclass(frozen=True, slots=True)
class BitsAndBytesConfig:
    """bitsandbytes: 4-bit codes of a 16-value codebook (nf4: arXiv 2305.14314, fp4), or int8 rows (arXiv 2208.07339).

    Block sizes and the types that were quantized stand beside each weight.
    """

    bits: int
    skipped: SkippedModules

    @classmethod
    def read(cls, fields: JsonFields) -> "BitsAndBytesConfig":
        """Read `quantization_config`."""
        in_4, in_8 = (fields.flag(f"load_in_{n}bit") or fields.flag(f"_load_in_{n}bit") for n in (4, 8))
        if in_4 == in_8:
            raise fields.error("load_in_4bit", "either it or load_in_8bit must be true")
        if in_4:
            fields.choice("bnb_4bit_quant_type", ("nf4", "fp4"), "fp4")
        return cls(4 if in_4 else 8, SkippedModules(fields.strings("llm_int8_skip_modules")))


@dataclass(frozen=True, slots=True)
class Mxfp4Config:
    """MXFP4: 4-bit floats in groups of 32 that share a power of two."""

    skipped: SkippedModules

    @classmethod
    def read(cls, fields: JsonFields) -> "Mxfp4Config":
        """Read `quantization_config`."""
        return cls(SkippedModules(fields.strings("modules_to_not_convert")))


Quantization = AwqConfig | GptqConfig | Float8Config | BitsAndBytesConfig | CompressedTensorsConfig | Mxfp4Config

QUANTIZATION_METHODS: Mapping[str, Callable[[JsonFields], Quantization]] = {
    "awq": AwqConfig.read,
    "gptq": GptqConfig.read,
    "fp8": Float8Config.read,
    "fbgemm_fp8": Float8Config.read,
    "compressed-tensors": CompressedTensorsConfig.read,
    "bitsandbytes": BitsAndBytesConfig.read,
    "mxfp4": Mxfp4Config.read,
}
# What AutoGPTQ and AutoAWQ wrote before config.json had a place for it, and the method of each.
_OLD_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


def read_quantization(directory: Path) -> Quantization | None:
    """How the weights of the checkpoint in `directory` are quantized; None if they are not.

    `quantization_config` in config.json says it, or in old checkpoints a file beside it. Raises `LoadError` with the
    field, its value and what is supported, for a method or a setting that is not.
    """
    found = _method(directory)
    return None if found is None else QUANTIZATION_METHODS[found[0]](found[1])


def stored_method(path: Path) -> str:
    """How the weights of a checkpoint or file are stored quantized: "gptq", "gguf"; "" if they are not."""
    if find_gguf(path) is not None:
        return "gguf"
    found = _method(path)
    return "" if found is None else found[0]


def _method(directory: Path) -> tuple[str, JsonFields] | None:
    config = JsonFields.read(directory / "config.json")
    fields = config.inner("quantization_config") or config.inner("compression_config")
    if fields is not None:
        return fields.choice("quant_method", tuple(QUANTIZATION_METHODS)), fields
    for name, method in _OLD_FILES.items():
        if (directory / name).exists():
            fields = JsonFields.read(directory / name)
            return fields.choice("quant_method", tuple(QUANTIZATION_METHODS), method), fields
    return None


def _group_size(fields: JsonFields, name: str) -> int | None:
    """A count of columns; -1, as all these formats write it, means one group over all of them: None."""
    return None if fields.raw(name) == -1 else fields.count(name)


def _gptq_layout(fields: JsonFields, default: GptqLayout | None) -> GptqLayout:
    bits = fields.count_of("bits", (4, 8), default.bits if default else None)
    if default is not None and not fields.has("group_size"):
        return GptqLayout(bits, default.group_size)
    return GptqLayout(bits, _group_size(fields, "group_size"))


def _gptq_overrides(fields: JsonFields, layout: GptqLayout) -> tuple[tuple[str, GptqLayout | None], ...]:
    """`dynamic` maps patterns to changes; a pattern that begins with `-:` names unquantized modules."""
    dynamic = fields.inner("dynamic")
    overrides: list[tuple[str, GptqLayout | None]] = []
    if dynamic is None:
        return ()
    for name in dynamic.names():
        if name.startswith("-:"):
            overrides.append((name.removeprefix("-:"), None))
            continue
        changes = dynamic.inner(name)
        overrides.append((name.removeprefix("+:"), layout if changes is None else _gptq_layout(changes, layout)))
    return tuple(overrides)
