"""Under which name, and in which part of it, a GGUF file stores a tensor of a checkpoint in Hugging Face layout."""

import re
from collections.abc import Mapping

from servery.engine.traits import Architecture

_MODEL: Mapping[str, str] = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_LAYER: Mapping[str, str] = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Tensors that are no weights: `gguf.config` reads what is needed of them.
NOT_WEIGHTS = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})

_IN_LAYER = re.compile(r"model\.layers\.(?P<layer>\d+)\.(?P<module>.+)\Z")
_IN_EXPERT = re.compile(r"(.+\.experts\.)(?P<number>\d+)(\..+)\Z")


def gguf_names(name: str, architecture: Architecture) -> tuple[tuple[str, int | None], ...]:
    """Where the tensor `name` may lie: the name of a GGUF tensor, and the number of the expert if it holds several.

    The first that a file has counts. Experts lie in one tensor, in old files in one each.
    """
    module, _, suffix = name.rpartition(".")
    if module in _MODEL:
        return ((f"{_MODEL[module]}.{suffix}", None),)
    found = _IN_LAYER.match(module)
    if found is None:
        return ()
    prefix, module = f"blk.{found['layer']}.", found["module"]
    in_expert = _IN_EXPERT.match(module)
    stem = _layer_names(architecture).get(_IN_EXPERT.sub(r"\1{}\3", module), module)
    if in_expert is None:
        return ((f"{prefix}{stem}.{suffix}", None),)
    number = in_expert["number"]
    return ((f"{prefix}{stem}_exps.{suffix}", int(number)), (f"{prefix}{stem}.{number}.{suffix}", None))


def _layer_names(architecture: Architecture) -> dict[str, str]:
    norms, experts = architecture.norms, architecture.experts
    of_norms = {
        norms.attention: "attn_norm",
        norms.attention_post: "post_attention_norm",
        norms.mlp: "ffn_norm",
        norms.mlp_post: "post_ffw_norm",
    }
    names = {**_LAYER, **{name: stored for name, stored in of_norms.items() if name is not None}}
    if experts is None:
        return names
    of_experts = {experts.gate: "ffn_gate", experts.up: "ffn_up", experts.down: "ffn_down"}
    return names | of_experts | {experts.router: "ffn_gate_inp"}
