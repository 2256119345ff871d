"""Small tokenizers of the three kinds that the supported families use, trained on the spot; the same every time."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = (
    "You are a helpful assistant. What is the capital of France? The capital of France is Paris. "
    "user system assistant tool; hello world, 12 + 30 = 42.\n\nNaïve café, über, 你好世界, 😀 emoji. "
) * 20


def byte_level() -> Tokenizer:
    """Like Qwen and Llama 3: byte-level BPE; control tokens, and two tags that are added but not special."""
    tokenizer = without_markers()
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")])
    return tokenizer


def without_markers() -> Tokenizer:
    """The same without the two tags."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer


def llama3() -> Tokenizer:
    """Byte-level BPE with Llama 3's control tokens, and BOS in front of plain text."""
    tokenizer = byte_level()
    names = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens(names)
    bos = (names[0], tokenizer.token_to_id(names[0]))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{names[0]} $A", special_tokens=[bos])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Like Llama 2: SentencePiece BPE with byte fallback; one leading space belongs to the tokenizer."""
    specials = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    learnt = Tokenizer(models.BPE())
    learnt.normalizer = _visible_spaces()
    learnt.train_from_iterator(TEXT[:100].split(), trainers.BpeTrainer(vocab_size=150, show_progress=False))
    model = json.loads(learnt.to_str())["model"]
    tokens = specials + byte_tokens + list(model["vocab"])
    merges = [tuple(merge) for merge in model["merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = _visible_spaces()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def metaspace() -> Tokenizer:
    """SentencePiece Unigram without byte fallback, `</s>` in the model's own vocabulary."""
    words = {"▁" + word for word in TEXT.split()}
    pieces = sorted({char for word in words for char in word if char < "\u3000"} | {"▁" + c for c in "abc"} | words)
    scores = [(piece, -3.0 - 1 / len(piece)) for piece in pieces]  # few pieces beat many
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *scores], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def _visible_spaces() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


KINDS = {"byte_level": byte_level, "byte_fallback": byte_fallback, "metaspace": metaspace}


def save(tokenizer: Tokenizer, folder: Path, **config: object) -> Path:
    """Write tokenizer.json and tokenizer_config.json."""
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
