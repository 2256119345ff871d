"""The format that a checkpoint's config.json names."""

from pathlib import Path

from servery.engine.quantization.awq import AwqFormat
from servery.engine.quantization.bitsandbytes import BitsAndBytesFormat
from servery.engine.quantization.compressed_config import CompressedTensorsConfig
from servery.engine.quantization.compressed_tensors import CompressedTensorsFormat
from servery.engine.quantization.config import (
    AwqConfig,
    BitsAndBytesConfig,
    Float8Config,
    GptqConfig,
    Mxfp4Config,
    read_quantization,
)
from servery.engine.quantization.float8 import Float8Format
from servery.engine.quantization.format import DenseFormat, WeightFormat
from servery.engine.quantization.gptq import GptqFormat
from servery.engine.quantization.mxfp4 import Mxfp4Format


def read_format(directory: Path) -> WeightFormat:
    """The format that `quantization_config` in config.json names, dense without one.

    Raises `LoadError` for a method or a setting that is not supported, with those that are.
    """
    match read_quantization(directory):
        case AwqConfig() as config:
            return AwqFormat(config)
        case GptqConfig() as config:
            return GptqFormat(config)
        case Float8Config() as config:
            return Float8Format(config)
        case CompressedTensorsConfig() as config:
            return CompressedTensorsFormat(config)
        case BitsAndBytesConfig() as config:
            return BitsAndBytesFormat(config)
        case Mxfp4Config() as config:
            return Mxfp4Format(config)
        case None:
            return DenseFormat()
