"""From an engine's settings to the quantizer that does what they say."""

from pathlib import Path

from servery.engine.architecture import ModelConfig
from servery.engine.config import EngineConfig
from servery.engine.quantization.scheme import AWQ, RoundingPlan, plan_rounding
from servery.engine.quantizer.calibration import read_sample, sequences_of
from servery.engine.quantizer.quantizer import Quantizer
from servery.engine.tokenizer import Tokenizer


def quantizer_for(config: EngineConfig, model_config: ModelConfig) -> Quantizer | None:
    """The quantizer that `config` asks for, None when it asks for none. Raises `LoadError`."""
    if config.quantize is None:
        return None
    plan = plan_rounding(model_config, config.quantize, group_size=config.group_size, method=config.quantize_method)
    return make_quantizer(config.model, model_config, plan, config.calibration)


def make_quantizer(model: Path, model_config: ModelConfig, plan: RoundingPlan, calibration: Path | None) -> Quantizer:
    """A quantizer for the checkpoint `model`; the text is read and encoded only where the method needs it."""
    if plan.method != AWQ:
        return Quantizer(model_config, plan, None)
    text = read_sample(calibration)
    return Quantizer(model_config, plan, sequences_of(text, Tokenizer.load(model), model_config))
