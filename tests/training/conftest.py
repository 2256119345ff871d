"""One torch thread, and the shipped tokenizer."""

from collections.abc import Iterator

import pytest
import torch
from tokenizers import Tokenizer

from servery import amuse
from training.tokenizer import load


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return load(amuse.path() / "tokenizer.json")
