"""Which modules of a checkpoint an adapter may change, and where each lies in the decoder. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from servery.engine.architecture import ModelConfig
from servery.engine.weight_map import targets_of

# The decoder's linears that are given every row of a step; an expert is given only some, the head only those sampled.
ADAPTABLE = ("qkv", "output", "gate_up", "down")


@dataclass(frozen=True, slots=True)
class Site:
    """A module `[rows, in_features]`: rows `first .. first + rows` of the decoder's linear `key`, such as `3.qkv`."""

    key: str
    first: int
    rows: int
    in_features: int


def sites_of(config: ModelConfig) -> Mapping[str, Site]:
    """Every module that an adapter may change, by its name in the checkpoint (`model.layers.3.self_attn.q_proj`)."""
    sites: dict[str, Site] = {}
    for target in targets_of(config):
        if target.key.partition(".")[2] not in ADAPTABLE:
            continue
        first = 0
        for source in target.sources:
            rows, in_features = source.shape
            sites[source.module] = Site(target.key, first, rows, in_features)
            first += rows
    return sites


def adapter_values(config: ModelConfig, rank: int) -> int:
    """How many numbers an adapter of `rank` has that changes every module it may: each A is [rank, in], B [out, rank]."""
    return sum(rank * (site.in_features + site.rows) for site in sites_of(config).values())
