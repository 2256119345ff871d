"""Rotary position embedding as a checkpoint's config.json describes it. No torch."""

import math
from dataclasses import dataclass

from servery.engine.json_fields import JsonFields

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: base, kind of scaling and that kind's parameters.

    "dynamic" equals "default" up to `max_position`, beyond which nothing is served, so it has no parameters here.
    Sources: linear, kaiokendev 2023; yarn, arXiv 2309.00071; llama3, the Llama 3.1 release.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


def read_rope(fields: JsonFields, max_position: int) -> RopeConfig:
    """Read `rope_parameters` of transformers 5, or the `rope_theta` and `rope_scaling` (kind in `type`) of older ones."""
    name = "rope_parameters" if fields.has("rope_parameters") else "rope_scaling"
    rope = fields.inner(name)
    for part in (fields, rope):
        if part is not None and part.number("partial_rotary_factor", 1.0) != 1.0:
            raise part.error("partial_rotary_factor", "only 1, which rotates all of a head, is supported")
    theta = fields.number("rope_theta", 10_000.0)
    if rope is None:
        return RopeConfig(theta=theta)
    theta = rope.number("rope_theta", theta)
    kind = rope.raw("rope_type") or rope.raw("type") or "default"
    if kind not in ROPE_TYPES:
        raise fields.error(name, f"supported rope types are {', '.join(ROPE_TYPES)}")
    if kind in {"default", "dynamic"}:
        return RopeConfig(theta=theta, kind=kind)
    if kind == "linear":
        return RopeConfig(theta=theta, kind=kind, factor=rope.number("factor"))
    original = rope.count("original_max_position_embeddings", max_position)
    if kind == "llama3":
        return _llama3_rope(rope, theta, original)
    return _yarn_rope(rope, theta, original)


def _llama3_rope(rope: JsonFields, theta: float, original: int) -> RopeConfig:
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        raise rope.error("low_freq_factor", f"it must be less than high_freq_factor, which is {high:g}")
    return RopeConfig(
        theta=theta,
        kind="llama3",
        factor=rope.number("factor"),
        original_max_position=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn_rope(rope: JsonFields, theta: float, original: int) -> RopeConfig:
    factor = rope.number("factor")
    return RopeConfig(
        theta=theta,
        kind="yarn",
        factor=factor,
        original_max_position=original,
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        attention_factor=rope.number("attention_factor", _yarn_attention_factor(rope, factor)),
        truncate=rope.flag("truncate", True),
    )


def _yarn_attention_factor(rope: JsonFields, factor: float) -> float:
    """Section 3.4 of the YaRN paper; `mscale` and `mscale_all_dim` are DeepSeek's refinement."""
    if rope.raw("mscale") and rope.raw("mscale_all_dim"):
        return _mscale(factor, rope.number("mscale")) / _mscale(factor, rope.number("mscale_all_dim"))
    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0
