"""Rotary position embedding as a checkpoint's config.json describes it. No torch."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from servery.engine.json_fields import JsonFields
from servery.engine.traits import MAX_POSITIONS, Architecture

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: base, kind of scaling and that kind's parameters.

    "dynamic" equals "default" up to `max_position`, beyond which nothing is served, so it has no parameters here.
    "longrope" has other frequencies for a sequence once it is longer than `original_max_position`, keys that are in
    the cache already included; nothing longer is served, so only `short_factors` are here. The first `rotary_dim` of a
    head's dimensions rotate, None for all,
    0 for a layer without rotation.
    Dimension i turns with i + rotary_dim / 2, or, if `interleaved`, 2i with 2i + 1. Scores are multiplied by
    `score_factor` where rotation touches a part of what is compared (DeepSeek's `mscale_all_dim`).
    Sources: linear, kaiokendev 2023; yarn, arXiv 2309.00071; llama3, the Llama 3.1 release; longrope, arXiv 2402.13753.
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
    short_factors: tuple[float, ...] = ()
    rotary_dim: int | None = None
    interleaved: bool = False
    score_factor: float = 1.0


def read_ropes(
    fields: JsonFields, architecture: Architecture, windows: Sequence[int | None], max_position: int, head_dim: int
) -> tuple[RopeConfig, ...]:
    """One for each layer, from the `rope_parameters` of transformers 5, or from what older ones wrote.

    That is `rope_theta` and `rope_scaling` (kind in `type`).
    """
    if architecture.local_theta is not None:
        whole, local = _whole_and_local(fields, architecture, architecture.local_theta, max_position, head_dim)
        return tuple(whole if window is None else local for window in windows)
    name = "rope_parameters" if fields.has("rope_parameters") else "rope_scaling"
    rope = _read_rope(fields, name, fields.inner(name), architecture, max_position, head_dim)
    skipped = dataclasses.replace(rope, rotary_dim=0)
    return tuple(rope if rotates else skipped for rotates in _rotating_layers(fields, architecture, windows))


def _whole_and_local(
    fields: JsonFields, architecture: Architecture, local_theta: float, max_position: int, head_dim: int
) -> tuple[RopeConfig, RopeConfig]:
    """For layers that see everything and for those that slide, which have a base of their own and no scaling."""
    both = fields.inner("rope_parameters")
    if both is None:
        whole = _read_rope(fields, "rope_scaling", fields.inner("rope_scaling"), architecture, max_position, head_dim)
        return whole, RopeConfig(theta=fields.number("rope_local_base_freq", local_theta))
    parts = [both.inner(name) for name in ("full_attention", "sliding_attention")]
    if None in parts:
        raise fields.error("rope_parameters", "it must have full_attention and sliding_attention")
    own = [architecture, dataclasses.replace(architecture, theta=local_theta)]
    whole, local = (
        _read_rope(fields, "rope_parameters", part, each, max_position, head_dim)
        for part, each in zip(parts, own, strict=True)
    )
    return whole, local


def _rotating_layers(fields: JsonFields, architecture: Architecture, windows: Sequence[int | None]) -> list[bool]:
    if architecture.still == "listed":
        return _listed_rotating_layers(fields, len(windows))
    is_windowed = fields.has("sliding_window") or not fields.is_given("sliding_window")
    if architecture.still == "full" or (architecture.still == "full_if_windowed" and is_windowed):
        return [window is not None for window in windows]
    return [True] * len(windows)


def _listed_rotating_layers(fields: JsonFields, num_layers: int) -> list[bool]:
    """Those with a 1 in `no_rope_layers`, or all but every fourth."""
    if not fields.has("no_rope_layers"):
        interval = fields.count("no_rope_layer_interval", 4)
        return [(layer + 1) % interval != 0 for layer in range(num_layers)]
    listed = fields.raw("no_rope_layers")
    if not isinstance(listed, list) or len(listed) != num_layers or not all(rotates in (0, 1) for rotates in listed):
        raise fields.error("no_rope_layers", "it must list 1 for each layer that rotates and 0 for each that does not")
    return [rotates == 1 for rotates in listed]


def _read_rope(
    fields: JsonFields,
    name: str,
    rope: JsonFields | None,
    architecture: Architecture,
    max_position: int,
    head_dim: int,
) -> RopeConfig:
    """From the object `rope`, which stands in field `name`, if there is one."""
    rope = rope or JsonFields(fields.path, {}, f"{name}.")
    rotary_dim = _rotary_dim(fields, rope, head_dim, architecture.rotary_share)
    theta = _theta(rope if rope.has("rope_theta") else fields, architecture.theta)
    if architecture.has_ntk_alpha and rope.has("alpha"):
        theta *= _theta_factor(rope, head_dim)
    config = _scaled(fields, name, rope, theta, max_position, rotary_dim or head_dim)
    if not architecture.is_latent:
        return dataclasses.replace(config, rotary_dim=rotary_dim, interleaved=architecture.interleaved_rope)
    return dataclasses.replace(
        config,
        interleaved=fields.flag("rope_interleave", architecture.interleaved_rope),
        score_factor=_score_factor(rope) if config.kind != "default" else 1.0,
    )


def _theta(fields: JsonFields, default: float) -> float:
    theta = fields.number("rope_theta", default)
    if theta <= 1:
        raise fields.error("rope_theta", "it must be greater than 1")
    return theta


def _theta_factor(rope: JsonFields, head_dim: int) -> float:
    """What `alpha` multiplies the base by."""
    if head_dim < 4:
        raise rope.error("alpha", f"it needs heads of at least 4 dimensions, not {head_dim}")
    return math.pow(rope.number("alpha"), head_dim / (head_dim - 2))


def _score_factor(rope: JsonFields) -> float:
    """The square of what the rotated part would be multiplied by, for queries and for keys."""
    return _mscale(rope.number("factor"), rope.number("mscale_all_dim")) ** 2 if rope.raw("mscale_all_dim") else 1.0


def _rotary_dim(fields: JsonFields, rope: JsonFields, head_dim: int, default: float | None) -> int | None:
    part = rope if rope.has("partial_rotary_factor") else fields
    share = part.number("partial_rotary_factor", default or 1.0)
    if share != 1.0 and default is None:
        raise part.error("partial_rotary_factor", "only 1, which rotates all of a head, is supported")
    rotary_dim = int(head_dim * min(share, 1.0))
    if share > 1.0 or rotary_dim < 2 or rotary_dim % 2:
        raise part.error("partial_rotary_factor", f"it must make an even number of head_dim {head_dim} rotate")
    return None if rotary_dim == head_dim else rotary_dim


def _scaled(
    fields: JsonFields, name: str, rope: JsonFields, theta: float, max_position: int, rotary_dim: int
) -> RopeConfig:
    kind = rope.raw("rope_type") or rope.raw("type") or "default"
    kind = "longrope" if kind == "su" else kind  # its first name
    if kind not in ROPE_TYPES:
        raise fields.error(name, f"supported rope types are {', '.join(ROPE_TYPES)}")
    if kind in {"default", "dynamic"}:
        return RopeConfig(theta=theta, kind=kind)
    if kind == "linear":
        return RopeConfig(theta=theta, kind=kind, factor=rope.number("factor"))
    if kind == "longrope":
        return _longrope(fields, rope, theta, max_position, rotary_dim)
    original = rope.count("original_max_position_embeddings", max_position, most=MAX_POSITIONS)
    if kind == "llama3":
        return _llama3_rope(rope, theta, original)
    return _yarn_rope(rope, theta, original)


def _longrope(fields: JsonFields, rope: JsonFields, theta: float, max_position: int, rotary_dim: int) -> RopeConfig:
    name = "original_max_position_embeddings"
    original = (rope if rope.has(name) else fields).count(name, most=MAX_POSITIONS)
    factors = rope.numbers("short_factor")
    if len(factors) != rotary_dim // 2:
        raise rope.error("short_factor", f"it must have {rotary_dim // 2} numbers, one for each pair that rotates")
    factor = rope.number("factor", max_position / original)
    own = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1.0 and original > 1 else 1.0
    return RopeConfig(
        theta=theta,
        kind="longrope",
        factor=factor,
        original_max_position=original,
        attention_factor=rope.number("attention_factor", own),
        short_factors=factors,
    )


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
