"""Tokenizers out of metadata, against the tokenizers whose metadata they are."""

import json
from functools import cache
from itertools import pairwise

import pytest
from gguf import GGUFWriter, TokenType
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.tokenization_utils_base import generate_merges

from servery import amuse
from servery.engine import tokenizer as engine_tokenizer
from servery.engine.errors import LoadError
from servery.engine.gguf.files import open_gguf
from servery.engine.gguf.vocabulary import read_tokenizer, special_tokens
from tests.engine.gguf.exporter import add_byte_level_tokenizer, finish
from tests.engine.vocabularies import TEXT

SAMPLES = [
    "", " ", "hello world", "  two  spaces ", "Hello, World! It's 12345 o'clock, isn't it? I'LL see.",
    "línea\nbreak\r\n\r\n  \n tab\tend ", "naïve café ÜBER ﬁ e\u0301", "你好世界。 こんにちは 한국어", "😀👍🏽 emoji ☕️ a😀b",
    "def f(x):\n    return x**2 // 3_000\n", "<|im_start|>user\nhi<|im_end|>", "<think>x</think> <s></s>", "a" * 40,
    "camelCase HTTPServer XMLHttpRequest ABCdef", "\u0000\u200b\u00a0\ufeff", "12.5% of 1,000,000 = $125,000",
]  # fmt: skip

# As the tokenizer.json of a model of each kind has them.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}"
    r"\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}"
    r"\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def byte_level(*, gpt2=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2)


CUTS = {
    "llama-bpe": [split(LLAMA3), byte_level()],
    "dbrx": [split(LLAMA3), byte_level()],
    "qwen2": [split(QWEN2), byte_level()],
    "deepseek-r1-qwen": [split(QWEN2), byte_level()],
    "tekken": [split(TEKKEN), byte_level()],
    "gpt-4o": [split(O200K), byte_level()],
    "gpt-2": [byte_level(gpt2=True)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), byte_level(gpt2=True)],
    "refact": [pre_tokenizers.Digits(individual_digits=True), byte_level(gpt2=True)],
    "deepseek-coder": [
        split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"),
        pre_tokenizers.Digits(individual_digits=True), byte_level(),
    ],
}  # fmt: skip


def trained(pre):
    """A small tokenizer as `pre` says, with control tokens, tags that are not special, and a token of a whole word."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre in {"llama-bpe", "tekken"}))
    tokenizer.normalizer = normalizers.NFC() if pre == "qwen2" else None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(CUTS[pre])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [TEXT, *SAMPLES * 3], trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")])
    if pre in {"llama-bpe", "tekken"}:
        bos = ("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))
        tokenizer.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[bos])
    return tokenizer


def exported(tokenizer, folder, pre, **declared):
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    writer = GGUFWriter(folder / "model.gguf", "qwen3")
    add_byte_level_tokenizer(writer, folder, tokenizer.get_vocab_size() + 7, pre)
    writer.add_bos_token_id(tokenizer.token_to_id("<|endoftext|>"))
    writer.add_eos_token_id(tokenizer.token_to_id("<|im_end|>"))
    finish(writer)
    return folder / "model.gguf"


@pytest.fixture(scope="module", params=CUTS)
def byte_level_pair(request, tmp_path_factory):
    """The original and what came out of the file; padding tokens are unknown to both."""
    original = trained(request.param)
    file = exported(original, tmp_path_factory.mktemp("bpe"), request.param)
    return engine_tokenizer.Tokenizer(original), engine_tokenizer.Tokenizer(read_tokenizer(open_gguf(file).fields))


def assert_same(pair, text):
    original, rebuilt = pair
    ids = original.encode(text)
    assert rebuilt.encode(text) == ids
    assert rebuilt.encode(text, add_special_tokens=False) == original.encode(text, add_special_tokens=False)
    assert [rebuilt.decode(ids, skip) for skip in (True, False)] == [
        original.decode(ids, skip) for skip in (True, False)
    ]


def test_byte_level_samples_are_encoded_as_by_the_original(byte_level_pair):
    for text in SAMPLES:
        assert_same(byte_level_pair, text)


def test_a_byte_level_vocabulary_has_the_originals_tokens_and_no_others(byte_level_pair):
    original, rebuilt = byte_level_pair
    assert rebuilt.backend.get_vocab() == original.backend.get_vocab()
    assert rebuilt.special_ids == original.special_ids


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_is_encoded_as_by_the_original(text, byte_level_pair):
    assert_same(byte_level_pair, text)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=80))
def test_the_tokenizer_of_amuse_survives(text, amuse_pair):
    assert_same(amuse_pair, text)


@pytest.fixture(scope="module")
def amuse_pair(tmp_path_factory):
    file = tmp_path_factory.mktemp("amuse") / "amuse.gguf"
    writer = GGUFWriter(file, "qwen3")
    add_byte_level_tokenizer(writer, amuse.path(), 1536)
    finish(writer)
    original = Tokenizer.from_file(str(amuse.path() / "tokenizer.json"))
    return engine_tokenizer.Tokenizer(original), engine_tokenizer.Tokenizer(read_tokenizer(open_gguf(file).fields))


# ---------------------------------------------------------------- SentencePiece


@cache
def pieces():
    """(text, score, type) as a SentencePiece model has them: specials, bytes, merged pieces, characters."""
    learnt = Tokenizer(models.BPE())
    learnt.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learnt.train_from_iterator((TEXT * 2).split(), trainers.BpeTrainer(vocab_size=260, show_progress=False))
    model = json.loads(learnt.to_str())["model"]
    merged = ["".join(merge) for merge in model["merges"]]
    characters = [text for text in model["vocab"] if len(text) == 1]
    specials = [("<unk>", 0.0, TokenType.UNKNOWN), ("<s>", 0.0, TokenType.CONTROL), ("</s>", 0.0, TokenType.CONTROL)]
    byte_tokens = [(f"<0x{byte:02X}>", 0.0, TokenType.BYTE) for byte in range(256)]
    normal = [(text, -float(rank), TokenType.NORMAL) for rank, text in enumerate([*merged, *characters])]
    return [*specials, *byte_tokens, *normal, ("<|user|>", 0.0, TokenType.USER_DEFINED)]


def sentence_pieces(file, *, architecture="llama", change=None):
    texts, scores, kinds = zip(*pieces(), strict=True)
    writer = GGUFWriter(file, architecture)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    if change:
        change(writer)
    finish(writer)
    return open_gguf(file).fields


def joined(text, *, prefix=True):
    """SentencePiece's BPE, word for word: join the neighbours that make the piece of the best score, leftmost first."""
    scores = {piece: score for piece, score, kind in pieces() if kind == TokenType.NORMAL}
    ids = {piece: i for i, (piece, _, _) in enumerate(pieces())}
    symbols = list(("▁" if prefix and text else "") + text.replace(" ", "▁"))
    while True:
        pairs = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in scores]
        if not pairs:
            break
        _, i = min(pairs)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    found = []
    for symbol in symbols:
        found += [ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return found


# Text in which no special token is written out.
PLAIN = st.text(max_size=40).filter(lambda text: "<" not in text)


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    return read_tokenizer(sentence_pieces(tmp_path_factory.mktemp("spm") / "model.gguf"))


@pytest.fixture(scope="module")
def spm_without_prefix(tmp_path_factory):
    file = tmp_path_factory.mktemp("gemma") / "model.gguf"
    return read_tokenizer(sentence_pieces(file, change=lambda writer: writer.add_add_space_prefix(False)))


@settings(max_examples=150, deadline=None)
@given(text=PLAIN)
def test_sentence_pieces_are_joined_by_their_scores(text, spm):
    assert spm.encode(text, add_special_tokens=False).ids == joined(text)


@settings(max_examples=100, deadline=None)
@given(text=PLAIN)
def test_without_space_prefix_a_text_begins_as_it_is(text, spm_without_prefix):
    assert spm_without_prefix.encode(text, add_special_tokens=False).ids == joined(text, prefix=False)


@settings(max_examples=100, deadline=None)
@given(text=PLAIN)
def test_decoding_gives_the_text_back(text, spm, spm_without_prefix):
    for backend in (spm, spm_without_prefix):
        tokenizer = engine_tokenizer.Tokenizer(backend)
        # The visible space is SentencePiece's own: a text that has it gets spaces.
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


def test_the_merges_are_those_that_transformers_makes(spm):
    vocabulary = {text: i for i, (text, _, kind) in enumerate(pieces()) if kind in (TokenType.NORMAL, 4)}
    scores = {text: score for text, score, kind in pieces() if kind in (TokenType.NORMAL, 4)}
    expected = [list(pair) for pair in generate_merges(vocabulary, scores)]
    assert json.loads(spm.to_str())["model"]["merges"] == expected


def test_bos_goes_before_a_text_and_specials_are_found_in_it(spm):
    assert spm.encode("<|user|>hi</s>").tokens[:2] == ["<s>", "<|user|>"]
    assert spm.encode("<|user|>hi</s>").tokens[-1] == "</s>"
    special = {token.content: token.special for token in spm.get_added_tokens_decoder().values()}
    assert special == {"<unk>": True, "<s>": True, "</s>": True, "<|user|>": False}


def test_eos_goes_behind_a_text_where_the_file_says_so(tmp_path):
    def change(writer):
        writer.add_add_bos_token(False)
        writer.add_add_eos_token(True)

    tokens = read_tokenizer(sentence_pieces(tmp_path / "m.gguf", change=change)).encode("hello").tokens
    assert ("<s>" in tokens, tokens[-1]) == (False, "</s>")


def test_control_tokens_of_phi3_take_the_space_behind_them(tmp_path):
    tokenizer = read_tokenizer(sentence_pieces(tmp_path / "m.gguf", architecture="phi3"))
    assert tokenizer.encode("<|user|>\nhello").ids == tokenizer.encode("<|user|>hello").ids


def test_spaces_of_user_defined_pieces_are_sentence_pieces_own(tmp_path):
    """Converters write "  " for Gemma's "▁▁"."""
    writer = GGUFWriter(tmp_path / "m.gguf", "gemma2")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "▁", "  ", "a"])
    writer.add_token_types([2, 1, 4, 1])
    writer.add_token_scores([0.0, -1.0, 0.0, -2.0])
    writer.add_add_space_prefix(False)
    finish(writer)
    tokenizer = read_tokenizer(open_gguf(tmp_path / "m.gguf").fields)
    assert tokenizer.encode("a  a a", add_special_tokens=False).tokens == ["a", "▁▁", "a", "▁", "a"]


# ---------------------------------------------------------------- what is refused


def metadata(path, **values):
    writer = GGUFWriter(path / "model.gguf", "llama")
    fields = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b", "ab"], "merges": ["a b"]} | values
    for key, value in fields.items():
        if isinstance(value, list):
            writer.add_array(f"tokenizer.ggml.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"tokenizer.ggml.{key}", value)
        elif value is not None:
            writer.add_uint32(f"tokenizer.ggml.{key}", value)
    finish(writer)
    return open_gguf(path / "model.gguf").fields


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"model": "t5"},
            'tokenizer.ggml.model is "t5"; supported are gpt2 and llama. Put the model\'s tokenizer.json',
        ),
        ({"model": None}, "tokenizer.ggml.model is missing; supported are gpt2 and llama"),
        ({"pre": "llama-bep"}, 'tokenizer.ggml.pre is "llama-bep"; supported are llama-bpe, '),
        ({"pre": "llama-bep"}, "the nearest by name is llama-bpe. Put the model's tokenizer.json"),
        ({"pre": None}, "tokenizer.ggml.pre is missing; supported are"),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing; it must list the tokens"),
        ({"tokens": [1, 2]}, "tokenizer.ggml.tokens is a list of 2 numbers; it must be a list of strings"),
        ({"tokens": ["a", "b", "a"]}, "tokenizer.ggml.tokens lists 'a' twice"),
        ({"tokens": ["a", "b" * 1025]}, "tokenizer.ggml.tokens has a token of 1025 characters; at most 1024"),
        ({"merges": None}, "tokenizer.ggml.merges is missing; byte-level BPE needs them"),
        ({"merges": ["a b", "ab"]}, "merge 1 in tokenizer.ggml.merges is 'ab'; it must be two tokens"),
        ({"merges": ["a c"]}, "the merge of 'a' and 'c' is of tokens that are not listed"),
        (
            {"token_type": [1]},
            'tokenizer.ggml.token_type is "a list of 1 numbers"; it must have a number for each of 3',
        ),
        ({"bos_token_id": 3}, "tokenizer.ggml.bos_token_id is 3; it must be the number of a token, below 3"),
    ],
)
def test_a_tokenizer_that_cannot_be_made_is_refused_by_key(values, complaint, tmp_path):
    with pytest.raises(LoadError) as caught:
        read_tokenizer(metadata(tmp_path, **values))
    assert str(caught.value).startswith(str(tmp_path))
    assert complaint in str(caught.value)


def test_special_tokens_are_named_as_chat_templates_know_them(tmp_path):
    named = special_tokens(metadata(tmp_path, bos_token_id=0, eos_token_id=1, padding_token_id=2))
    assert named == {"bos_token": "a", "eos_token": "b", "pad_token": "ab"}
