"""Rows lose nothing, mix nothing up, and mark exactly the answers."""

from random import Random

import torch
from tokenizers import Tokenizer

from training.chat import END
from training.mix import Dialogue, dialogues
from training.packing import Example, encode, pack
from training.tasks.scene import Turn
from training.train import attention_bias


def test_answers_with_their_end_are_marked(tokenizer: Tokenizer) -> None:
    [example] = encode(tokenizer, [Dialogue((Turn("Hello", "Hi there"), Turn("Bye", "Goodbye")), "Be brief.")])
    marked = [token for token, answer in zip(example.tokens, example.answers, strict=True) if answer]
    assert tokenizer.decode(marked, skip_special_tokens=False) == f"Hi there{END}Goodbye{END}"


def test_rows_hold_whole_conversations(tokenizer: Tokenizer) -> None:
    examples = encode(tokenizer, dialogues(5, 0, 600, 1.0))
    known = {tuple(example.tokens): example.answers for example in examples}
    batches = pack(examples, Random(0), batch_tokens=1024)
    filled = 0
    for batch in batches:
        assert batch.tokens.size in (1024, 2048)
        for tokens, documents, positions, answers in zip(
            batch.tokens, batch.documents, batch.positions, batch.answers, strict=True
        ):
            for document in range(1, documents.max() + 1):
                here = documents == document
                assert known[tuple(tokens[here].tolist())] == answers[here].tolist()
                assert positions[here].tolist() == list(range(here.sum()))
                filled += here.sum()
    assert filled / sum(batch.tokens.size for batch in batches) > 0.95


def test_no_position_looks_ahead_or_into_another_conversation() -> None:
    [batch] = pack([Example([7, 8, 9], [False] * 3), Example([5, 6], [False] * 2)], Random(0), batch_tokens=256)
    allowed = attention_bias(torch.from_numpy(batch.documents))[0, 0] == 0
    assert allowed[:5, :5].int().tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1],
    ]  # fmt: skip


def test_packing_is_the_same_each_time(tokenizer: Tokenizer) -> None:
    examples = encode(tokenizer, dialogues(5, 0, 100, 1.0))
    first, second = (pack(examples, Random(1), 512) for _ in range(2))
    assert [b.tokens.tolist() for b in first] == [b.tokens.tolist() for b in second]
