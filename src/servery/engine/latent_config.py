"""DeepSeek's latent attention as a checkpoint's config.json describes it. No torch."""

from dataclasses import dataclass

from servery.engine.json_fields import JsonFields


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentConfig:
    """Multi-head latent attention (arXiv 2405.04434, section 2.1).

    Of a token the cache holds one latent of `kv_rank` numbers, from which the keys and values of all heads follow, and
    one key of `rope_dim` numbers that rotates and that all heads share. A head compares `key_dim` numbers that do not
    rotate and those `rope_dim`; its values have `value_dim`. Queries follow from a latent of `query_rank` numbers, or,
    if that is None, from the layer's input.
    """

    kv_rank: int
    query_rank: int | None
    key_dim: int
    rope_dim: int
    value_dim: int

    @property
    def query_dim(self) -> int:
        """How many numbers a head compares."""
        return self.key_dim + self.rope_dim

    @property
    def width(self) -> int:
        """How many numbers the cache holds of a token, per layer."""
        return self.kv_rank + self.rope_dim

    def num_parameters(self, hidden_size: int, num_heads: int) -> int:
        """The weights of one layer's attention."""
        query = num_heads * self.query_dim
        source = hidden_size if self.query_rank is None else self.query_rank
        down = hidden_size * self.width + (0 if self.query_rank is None else hidden_size * self.query_rank)
        up = source * query + self.kv_rank * num_heads * (self.key_dim + self.value_dim)
        return down + up + self.kv_rank + (self.query_rank or 0) + num_heads * self.value_dim * hidden_size


def read_latent(fields: JsonFields) -> LatentConfig:
    """Read the sizes; raises `LoadError` naming the field that is missing, malformed or not supported."""
    num_heads = fields.count("num_attention_heads")
    if fields.count("num_key_value_heads", num_heads) != num_heads:
        raise fields.error("num_key_value_heads", f"with latent attention it must be num_attention_heads {num_heads}")
    if not fields.is_given("q_lora_rank"):
        raise fields.error("q_lora_rank", "it must be a whole number of at least 1, or null for no latent of queries")
    rope_dim = fields.count("qk_rope_head_dim")
    if rope_dim % 2:
        raise fields.error("qk_rope_head_dim", "rotary embeddings need an even number")
    return LatentConfig(
        kv_rank=fields.count("kv_lora_rank"),
        query_rank=fields.optional_count("q_lora_rank"),
        key_dim=fields.count("qk_nope_head_dim"),
        rope_dim=rope_dim,
        value_dim=fields.count("v_head_dim"),
    )
