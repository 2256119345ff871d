"""The one tokenizer of all sizes: byte-level BPE with single digits and six special tokens."""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.chat import END, PAD, SPECIALS, TEMPLATE, segments
from training.mix import dialogues

VOCABULARY = 1536
_SEED = 20_261_121
_PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


def _texts(count: int) -> Iterator[str]:
    for dialogue in dialogues(_SEED, shard=-1, count=count, level=1.0):
        for _, text in segments(dialogue):
            yield text


def train(count: int = 20_000) -> Tokenizer:
    """Learn the merges from generated conversations; the same on every machine."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(count), trainer)
    return tokenizer


def load(path: Path) -> Tokenizer:
    """A tokenizer that reads special tokens in text as plain text, so that content cannot open a turn."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_id(tokenizer: Tokenizer, text: str) -> int:
    """The id of a token that must exist."""
    number = tokenizer.token_to_id(text)
    if number is None:
        raise ValueError(f"the tokenizer has no token {text!r}; train it with python -m training.make_amuse")
    return number


def save(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` with the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {str(number): {"content": text} | special for number, text in enumerate(SPECIALS)},
        "additional_special_tokens": [text for text in SPECIALS if text not in (PAD, END)],
        "eos_token": END,
        "pad_token": PAD,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
