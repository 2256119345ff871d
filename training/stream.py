"""An endless, seeded stream of packed batches that can be resumed at any batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from training.chat import PAD
from training.mix import dialogues
from training.packing import Batch, encode, pack
from training.recipe import Recipe
from training.tokenizer import token_id


@dataclass(slots=True)
class Place:
    """Where the stream is: the next batch of a shard."""

    shard: int = 0
    batch: int = 0


def shard_batches(tokenizer: Tokenizer, recipe: Recipe, shard: int) -> list[Batch]:
    """All batches of one shard, always the same."""
    conversations = dialogues(recipe.seed, shard, recipe.shard_dialogues, recipe.level(shard))
    order = Random(f"order/{recipe.seed}/{shard}")
    return pack(encode(tokenizer, conversations), order, recipe.batch_tokens, token_id(tokenizer, PAD))


def stream(tokenizer: Tokenizer, recipe: Recipe, place: Place) -> Iterator[Batch]:
    """Batches from a place on; ``place`` moves along, so saving it is enough to resume."""
    while True:
        batches = shard_batches(tokenizer, recipe, place.shard)
        while place.batch < len(batches):
            place.batch += 1
            yield batches[place.batch - 1]
        place.shard, place.batch = place.shard + 1, 0
