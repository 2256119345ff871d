"""A complete tiny checkpoint: random Qwen3 weights, a byte-level tokenizer and a chat template."""

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tests.engine import checkpoints

SPECIAL_TOKENS = ["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
EOS_TOKEN_ID = 4
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def save(folder: Path, *, template: str = CHAT_TEMPLATE, markers: Sequence[str] = (), **changes: object) -> Path:
    """Write the checkpoint into `folder` and return it; `changes` go to its config.

    `markers` are tokens that are added, and special.
    """
    tokenizer = _tokenizer()
    tokenizer.add_special_tokens(list(markers))
    settings = {"vocab_size": tokenizer.get_vocab_size(), "eos_token_id": EOS_TOKEN_ID, **changes}
    checkpoints.save(checkpoints.qwen3(**settings), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "chat_template": template}))
    return folder


def _tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(["hello world, this is a small test of the engine and its tokens"] * 3, trainer)
    return tokenizer
