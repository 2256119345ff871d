"""The shipped weights: found without torch, loaded by transformers alike, and right on everyday questions."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from servery import amuse
from training.chat import END, PAD
from training.decode import greedy, prompt
from training.export import read
from training.mix import Dialogue
from training.tasks.scene import Turn
from training.tokenizer import load

SHIPPED = ("draft", "small")


def test_paths_are_found_without_torch() -> None:
    code = "import sys; from servery import amuse; amuse.path(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_and_absent_sizes_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown amuse size 'huge'; the sizes are draft, small, base"):
        amuse.path("huge")
    monkeypatch.setattr(amuse, "HOME", tmp_path)
    with pytest.raises(ValueError, match="make_amuse --size base"):
        amuse.path("base")
    assert amuse.available() == []


def test_both_sizes_are_here_small_enough_and_share_one_tokenizer() -> None:
    assert [size for size in amuse.available() if size != "base"] == list(SHIPPED)
    assert sum((amuse.path(size) / "model.safetensors").stat().st_size for size in SHIPPED) < 40e6
    first, second = ((amuse.path(size) / "tokenizer.json").read_bytes() for size in SHIPPED)
    assert first == second


@pytest.mark.parametrize("size", SHIPPED)
def test_transformers_loads_the_same_model(size: str) -> None:
    torch.set_num_threads(1)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(amuse.path(size), dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(amuse.path(size))
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 17 + 25?"}]
    tokens = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
    ours = prompt(load(amuse.path(size) / "tokenizer.json"), Dialogue((Turn("What is 17 + 25?", ""),), "Be brief."))
    assert tokens == ours
    model, end = read(amuse.path(size)), tokenizer.eos_token_id
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END, PAD)
    written = theirs.generate(torch.tensor([tokens]), max_new_tokens=40, do_sample=False)[0, len(tokens) :].tolist()
    [answer] = greedy(model, [ours], end, 40)
    assert answer.tokens == written


EVERYDAY = {
    "Hello": "Hello! How can I help you?",
    "What is 17 + 25?": "17 + 25 = 42",
    "What is the capital of France?": "The capital of France is Paris.",
    "Convert 3 km to meters.": "1 km = 1000 meters\n3 x 1000 = 3000\nAnswer: 3000 meters",
    "Reverse this list: apple, pear, plum": "plum, pear, apple",
    "Write JSON with name, age: Mia is 34 years old.": '{"name": "Mia", "age": 34}',
    "Context: Mia lives in Oslo. Ben lives in Rome.\nWhere does Ben live?": "Ben lives in Rome.",
    "Context: Mia lives in Oslo. Ben lives in Rome.\nWhere does Anna live?": "Anna is not in the context.",
    "Thanks!": "You are welcome!",
}


def test_everyday_questions_are_answered() -> None:
    torch.set_num_threads(1)
    model, tokenizer = read(amuse.path()), load(amuse.path() / "tokenizer.json")
    asked = [prompt(tokenizer, Dialogue((Turn(question, ""),))) for question in EVERYDAY]
    answers = greedy(model, asked, tokenizer.token_to_id(END), 60)
    written = [tokenizer.decode(answer.tokens, skip_special_tokens=True) for answer in answers]
    assert dict(zip(EVERYDAY, written, strict=True)) == EVERYDAY
