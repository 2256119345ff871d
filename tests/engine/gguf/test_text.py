"""What a GGUF model says of text, through the classes that read it from any checkpoint."""

import json
import shutil

import pytest
from gguf import GGUFWriter

from servery import amuse
from servery.engine.chat_template import ChatTemplate
from servery.engine.errors import LoadError
from servery.engine.tokenizer import Tokenizer
from servery.upstream.sampling import read_defaults
from tests.engine.gguf.exporter import add_byte_level_tokenizer, finish

CONVERSATION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 12 + 30?"}]


def write(folder, change=None):
    """A file with the tokenizer and the template of amuse, and no tensors."""
    writer = GGUFWriter(folder / "model.gguf", "qwen3")
    add_byte_level_tokenizer(writer, amuse.path(), 1536)
    writer.add_eos_token_id(5)
    if change is not None:
        change(writer)
    finish(writer)
    return folder / "model.gguf"


def test_a_conversation_becomes_the_tokens_that_it_does_in_the_checkpoint(tmp_path):
    file = write(tmp_path)
    found = [(ChatTemplate.load(path), Tokenizer.load(path)) for path in (amuse.path(), file, tmp_path)]
    prompts = [template.encode(tokenizer, CONVERSATION) for template, tokenizer in found]
    assert prompts[1:] == [prompts[0]] * 2


def test_special_tokens_are_named(tmp_path):
    tokenizer = Tokenizer.load(write(tmp_path))
    assert tokenizer.special_tokens == {"eos_token": "<|end|>"}
    assert tokenizer.special_ids == Tokenizer.load(amuse.path()).special_ids


def test_a_tokenizer_beside_the_file_is_used_instead(tmp_path):
    file = write(tmp_path, lambda writer: writer.add_tokenizer_pre("unheard-of"))
    with pytest.raises(LoadError, match=r"tokenizer\.ggml\.pre is \"unheard-of\""):
        Tokenizer.load(file)
    shutil.copy(amuse.path() / "tokenizer.json", tmp_path)
    assert Tokenizer.load(file).encode("What is 12 + 30?") == Tokenizer.load(amuse.path()).encode("What is 12 + 30?")


def test_a_tokenizer_of_another_model_beside_the_file_is_refused(tmp_path):
    file = write(tmp_path)
    spec = json.loads((amuse.path() / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = spec["model"]["vocab"]
    one, other = "hello"[:1], "w"
    vocab[one], vocab[other] = vocab[other], vocab[one]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(LoadError) as caught:
        Tokenizer.load(file)
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.json'} has ")
    assert "it belongs to another model. Move it elsewhere." in str(caught.value)


def test_a_broken_tokenizer_beside_the_file_is_named(tmp_path):
    file = write(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(LoadError, match=r"tokenizer\.json cannot be read: .*Download it again, or remove it"):
        Tokenizer.load(file)


def test_a_model_without_template_has_none(tmp_path):
    writer = GGUFWriter(tmp_path / "base.gguf", "llama")
    finish(writer)
    assert ChatTemplate.load(tmp_path / "base.gguf") is None


def test_named_templates_are_found(tmp_path):
    def change(writer):
        writer.add_array("tokenizer.chat_templates", ["tool_use"])
        writer.add_string("tokenizer.chat_template.tool_use", "tools!")

    template = ChatTemplate.load(write(tmp_path, change))
    assert template.sources.keys() == {"default", "tool_use"}
    assert template.render(CONVERSATION, tools=[{"type": "function"}]) == "tools!"


def test_a_template_beside_the_file_is_used_instead(tmp_path):
    file = write(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert ChatTemplate.load(file).render(CONVERSATION) == "Be brief."


def test_the_makers_way_to_sample_is_the_default(tmp_path):
    def change(writer):
        writer.add_sampling_temp(0.25)
        writer.add_sampling_top_k(20)
        writer.add_sampling_top_p(0.5)
        writer.add_sampling_penalty_repeat(1.5)

    defaults = read_defaults(write(tmp_path, change))
    assert defaults == {"temperature": 0.25, "top_k": 20, "top_p": 0.5, "repetition_penalty": 1.5}


def test_a_default_that_no_request_could_be_served_with_is_refused(tmp_path):
    file = write(tmp_path, lambda writer: writer.add_sampling_temp(-1.0))
    with pytest.raises(LoadError, match=r"model\.gguf: .*temperature"):
        read_defaults(file)
