"""Which tokens end an answer, by the metadata of a GGUF model. No torch."""

from servery.engine.gguf.header import Array
from servery.engine.json_fields import JsonFields

_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Tokens that end a turn whatever the keys say: many files name only the end of a document. From the list in
# src/llama-vocab.cpp of ggml-org/llama.cpp, as far as supported families have them.
_TEXTS = frozenset(
    {
        "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>",
        "<eos>",
    }
)  # fmt: skip


def end_token_ids(metadata: JsonFields) -> frozenset[int]:
    """The ids of eos, of the end of a turn or message, and of the tokens known to end a turn by their text."""
    named = [metadata.token_ids(f"tokenizer.ggml.{key}") for key in _KEYS]
    tokens = metadata.raw("tokenizer.ggml.tokens")
    texts = tokens.strings() if isinstance(tokens, Array) else []
    return frozenset().union(*named, (token_id for token_id, text in enumerate(texts) if text in _TEXTS))
