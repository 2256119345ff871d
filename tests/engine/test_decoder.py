"""The decoder against transformers, and against itself under every way to cut its work."""

import pytest
import torch

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.decoder import Decoder
from servery.engine.kv import KVCache
from servery.engine.loader import load_model
from tests.engine import checkpoints
from tests.engine.native.kernels import best_context

BLOCK_SIZE = 8


class Paged:
    """Runs a decoder for sequences whose blocks are given out in the worst order: none lies next to another."""

    def __init__(self, model: Decoder, num_blocks: int = 128) -> None:
        self.model = model
        self.cache = KVCache(model.config, num_blocks, BLOCK_SIZE, model.dtype)
        self._free = list(range(0, num_blocks, 2)) + list(range(1, num_blocks, 2))
        self._blocks: dict[int, list[int]] = {}

    def step(self, *rows: tuple[int, int, list[int]]) -> list[torch.Tensor]:
        """Run rows of (sequence, start, tokens); returns the logits of each row's tokens."""
        for sequence, start, tokens in rows:
            blocks = self._blocks.setdefault(sequence, [])
            while len(blocks) * BLOCK_SIZE < start + len(tokens):
                blocks.append(self._free.pop())
        batch = Batch.build([(tokens, start, self._blocks[seq]) for seq, start, tokens in rows], BLOCK_SIZE)
        logits = self.model.logits(self.model.forward(batch, self.cache))
        return list(logits.split([len(tokens) for _, _, tokens in rows]))


# In one call, where the other cases are computed operation by operation; all of them in a run of slow tests.
QUICK_LOOPS = {"qwen3_tied", "gemma3", "olmo3"}
CASES = [pytest.param((name, "torch"), id=name) for name in checkpoints.MODELS] + [
    pytest.param((name, "native"), id=f"{name}-native", marks=() if name in QUICK_LOOPS else pytest.mark.slow)
    for name in checkpoints.MODELS
]


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """The same weights in transformers and in our decoder, by torch or by the native kernels."""
    torch.set_num_threads(1)
    name, kernels = request.param
    native = best_context() if kernels == "native" else None
    theirs = checkpoints.MODELS[name]()
    path = checkpoints.save(theirs, tmp_path_factory.mktemp(name))
    return theirs, load_model(path, ModelConfig.load(path), torch.float32, native=native)


def prompt(length: int, seed: int = 1) -> list[int]:
    return torch.randint(3, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def greedy(paged: Paged, sequence: int, tokens: list[int], count: int) -> list[int]:
    logits = paged.step((sequence, 0, tokens))[0]
    output = [int(logits[-1].argmax())]
    while len(output) < count:
        logits = paged.step((sequence, len(tokens) + len(output) - 1, output[-1:]))[0]
        output.append(int(logits[-1].argmax()))
    return output


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def test_logits_agree_with_transformers(pair):
    theirs, ours = pair
    tokens = prompt(150)
    with torch.inference_mode():
        expected = theirs(torch.tensor([tokens])).logits[0]
    assert relative_difference(Paged(ours).step((0, 0, tokens))[0], expected) <= 1e-4


def test_greedy_generation_is_that_of_transformers_for_200_tokens(pair):
    """Each token is the likeliest one in their single pass over all that comes before it, and so by induction theirs."""
    theirs, ours = pair
    tokens = prompt(37)
    output = greedy(Paged(ours), 0, tokens, 210)
    with torch.inference_mode():
        likeliest = theirs(torch.tensor([tokens + output])).logits[0].argmax(-1)
    assert output == likeliest[36:-1].tolist()


def test_pieces_of_any_size_give_the_logits_of_the_whole_prompt(pair):
    _, ours = pair
    tokens = prompt(90)
    whole = Paged(ours).step((0, 0, tokens))[0]
    for size in (1, 7, 32):
        paged = Paged(ours)
        pieces = [paged.step((0, at, tokens[at : at + size]))[0] for at in range(0, len(tokens), size)]
        assert relative_difference(torch.cat(pieces), whole) <= 1e-5


def test_a_sequence_is_not_touched_by_those_that_share_its_steps(pair):
    _, ours = pair
    tokens = [prompt(length, seed=length) for length in (50, 9, 31, 70)]
    alone = [Paged(ours).step((0, 0, sequence))[0] for sequence in tokens]
    paged = Paged(ours)
    first = paged.step(*[(i, 0, sequence[: 3 * i + 5]) for i, sequence in enumerate(tokens)])
    # One piece, two single tokens and another piece in one step, in mixed order.
    middle = paged.step(
        (2, 11, tokens[2][11:20]), (0, 5, tokens[0][5:6]), (1, 8, tokens[1][8:9]), (3, 14, tokens[3][14:])
    )
    last = paged.step((0, 6, tokens[0][6:]), (2, 20, tokens[2][20:]))
    together = [
        torch.cat((first[0], middle[1], last[0])),
        torch.cat((first[1], middle[2])),
        torch.cat((first[2], middle[0], last[1])),
        torch.cat((first[3], middle[3])),
    ]
    for ours_together, ours_alone in zip(together, alone, strict=True):
        assert relative_difference(ours_together, ours_alone) <= 1e-5


@pytest.mark.parametrize(
    "name", ["qwen3_tied", "gemma2", "phi4_mini", "olmo2", "granite", "cohere2", "deepseek_v3_plain"]
)
def test_bfloat16_stays_close_to_float32(name, tmp_path):
    path = checkpoints.save(checkpoints.MODELS[name](), tmp_path)
    config = ModelConfig.load(path)
    tokens = prompt(60)
    exact = Paged(load_model(path, config, torch.float32)).step((0, 0, tokens))[0]
    rounded = Paged(load_model(path, config, torch.bfloat16)).step((0, 0, tokens))[0]
    assert rounded.dtype is torch.float32
    assert relative_difference(rounded, exact) <= 0.05


def test_a_step_whose_numbers_overflow_spoils_nobody_else(tmp_path):
    """The blocks of a sequence that went to infinity are reused as they are; the next owner must not see them."""
    path = checkpoints.save(checkpoints.qwen3(), tmp_path)
    model = load_model(path, ModelConfig.load(path), torch.float32)
    clean = Paged(model).step((0, 0, prompt(21)), (1, 0, [5]))
    dirty = Paged(model)
    for layer in dirty.cache.layers:
        layer.fill_(float("nan"))
    for ours, expected in zip(dirty.step((0, 0, prompt(21)), (1, 0, [5])), clean, strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "llama2"])
def test_a_step_reads_all_weights_but_the_experts_that_its_tokens_do_not_go_to(name, tmp_path):
    path = checkpoints.save(checkpoints.MODELS[name](), tmp_path)
    config = ModelConfig.load(path)
    model = load_model(path, config, torch.float32)
    expert_bytes = 0
    if config.experts is not None:
        expert_bytes = sum(config.experts.layers) * config.experts.count * 3 * 64 * config.experts.intermediate_size * 4
    for tokens in (1, 5):
        share = 0.0 if config.experts is None else (1 - config.experts.per_token / config.experts.count) ** tokens
        assert model.read_bytes(tokens) == model.weight_bytes - round(expert_bytes * share)
