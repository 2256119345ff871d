"""Loading and encoding: as `transformers` does it, and clear errors where it cannot be done."""

import json
import threading
import time

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders
from transformers import PreTrainedTokenizerFast

from servery.engine.errors import InvalidRequest, LoadError
from servery.engine.tokenizer import Tokenizer
from tests.engine import tiny_model, vocabularies


@pytest.fixture(scope="module")
def qwen() -> Tokenizer:
    return Tokenizer(vocabularies.byte_level(), {"eos_token": "<|im_end|>"})


@pytest.mark.parametrize("build", [*vocabularies.KINDS.values(), vocabularies.llama3])
@pytest.mark.parametrize("text", ["What is the capital?", "", " leading  spaces ", "a<|im_end|>b</s>\n\n", "naïve 😀"])
@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_encoding_agrees_with_transformers(build, text, add_special_tokens):
    theirs = PreTrainedTokenizerFast(tokenizer_object=build())
    expected = theirs.encode(text, add_special_tokens=add_special_tokens)
    assert Tokenizer(build()).encode(text, add_special_tokens) == expected


def test_what_was_loaded_is_known(tmp_path):
    vocabularies.save(
        vocabularies.llama3(),
        tmp_path,
        bos_token="<|begin_of_text|>",
        eos_token={"content": "<|eot_id|>", "__type": "AddedToken"},
        pad_token=None,
    )
    tokenizer = Tokenizer.load(tmp_path)
    of = tokenizer.token_id
    assert (tokenizer.vocab_size, tokenizer.special_tokens) == (
        of("<|eot_id|>") + 1,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    )
    assert {of("<|im_end|>"), of("<|eot_id|>")} < tokenizer.special_ids
    assert of("<think>") not in tokenizer.special_ids


def test_special_tokens_can_be_named_in_special_tokens_map_only(tmp_path):
    vocabularies.save(vocabularies.byte_level(), tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.special_tokens == {"eos_token": "<|im_end|>"}
    assert tokenizer.token_id("<|im_end|>") in tokenizer.special_ids


def test_a_named_special_token_is_skipped_in_text_even_if_the_vocabulary_does_not_say_so(tmp_path):
    vocabularies.save(vocabularies.byte_level(), tmp_path, eos_token="</think>")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.decode(tokenizer.encode("hello</think>")) == "hello"


def test_a_token_declared_only_in_tokenizer_config_is_added(tmp_path):
    plain = vocabularies.byte_level()
    facts = {"content": "<|extra|>", "special": True, "lstrip": False, "rstrip": False, "single_word": False}
    declared = {str(plain.get_vocab_size()): facts | {"normalized": False}}
    tokenizer = Tokenizer.load(vocabularies.save(plain, tmp_path, added_tokens_decoder=declared))
    assert tokenizer.encode("<|extra|>") == [plain.get_vocab_size()]


def test_files_of_two_models_are_refused(tmp_path):
    vocabularies.save(vocabularies.byte_level(), tmp_path, added_tokens_decoder={"7": {"content": "<|im_end|>"}})
    with pytest.raises(LoadError, match=r"tokenizer_config.json gives token '<\|im_end\|>' the id 7.*not of the same"):
        Tokenizer.load(tmp_path)


def test_a_missing_tokenizer_is_named_with_what_to_do(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(LoadError, match=r"tokenizer\.json does not exist.*save_pretrained"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(LoadError, match=r"tokenizer\.model is in an older format, which must be converted\. Load"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", '{"model": 3}'])
def test_a_damaged_tokenizer_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(LoadError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{"])
def test_a_damaged_config_is_named(tmp_path, content):
    vocabularies.save(vocabularies.byte_level(), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(LoadError, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "decoder", [decoders.WordPiece(), decoders.BPEDecoder(), decoders.Sequence([decoders.Replace("_", " ")]), None]
)
def test_an_unsupported_decoder_is_refused_at_load(decoder):
    backend = vocabularies.byte_level()
    backend = Backend.from_str(json.dumps(json.loads(backend.to_str()) | {"decoder": None}))
    if decoder is not None:
        backend.decoder = decoder
    with pytest.raises(LoadError, match="supported are ByteLevel"):
        Tokenizer(backend)


def test_lone_surrogates_are_refused(qwen):
    with pytest.raises(InvalidRequest, match=r"character 2 is the lone surrogate U\+D83D"):
        qwen.encode("ab\ud83d")


def test_saved_truncation_and_padding_are_not_applied():
    backend = vocabularies.byte_level()
    backend.enable_truncation(3)
    backend.enable_padding(length=10)
    assert len(Tokenizer(backend).encode(vocabularies.TEXT)) > 10
    assert Tokenizer(backend).encode("") == []


def test_threads_may_encode_and_decode_at_once(qwen):
    expected = qwen.encode(vocabularies.TEXT)
    results: list[tuple[list[int], str]] = []

    def work() -> None:
        results.append((qwen.encode(vocabularies.TEXT), qwen.decode(expected)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(expected, vocabularies.TEXT)] * 4


def test_token_bytes_are_what_tokens_stand_for(qwen):
    llama2 = Tokenizer(vocabularies.byte_fallback())
    assert [llama2.token_bytes(llama2.token_id(token)) for token in ("<0xE4>", "▁Fr", "</s>")] == [
        b"\xe4",
        b" Fr",
        b"</s>",
    ]
    assert [qwen.token_bytes(qwen.token_id(token)) for token in ("Ġis", "Ċ", "ä", "<|im_end|>")] == [
        b" is",
        b"\n",
        b"\xe4",
        b"<|im_end|>",
    ]


def test_ids_without_a_token_stand_for_nothing(qwen):
    token_ids = [-1, qwen.vocab_size, 2**40, *qwen.encode("hello")]
    assert (qwen.decode(token_ids), qwen.token_bytes(-1), qwen.token_bytes(qwen.vocab_size)) == ("hello", b"", b"")


def test_other_threads_run_while_a_long_text_is_encoded(tmp_path):
    """Holding the interpreter would stop every stream of a server: this counts what another thread gets done."""
    tokenizer = Tokenizer.load(tiny_model.save(tmp_path))
    text = "hello world, this is a small test of the engine " * 20_000
    turns, done = 0, threading.Event()

    def encode() -> None:
        tokenizer.encode(text)
        done.set()

    thread = threading.Thread(target=encode)
    thread.start()
    while not done.is_set():
        turns += 1
        time.sleep(0)  # give way, to be the one that needs the interpreter back
    thread.join()
    assert turns > 1_000


@pytest.mark.parametrize("declared", [{"x": {"content": "<a>"}}, {"5": "<a>"}, {"5": {"content": 7}}])
def test_declared_tokens_that_are_none_are_a_clear_error(tmp_path, declared):
    folder = tiny_model.save(tmp_path)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "added_tokens_decoder": declared}))
    with pytest.raises(LoadError, match=r"tokenizer_config\.json has added_tokens_decoder entries that are no tokens"):
        Tokenizer.load(folder)
