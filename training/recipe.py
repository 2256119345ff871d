"""How long and how hard each size is trained."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """Numbers of one training run. Learning rates are constant after the warm-up, then fall linearly to zero."""

    steps: int
    batch_tokens: int = 2048
    warmup_steps: int = 60
    decay_share: float = 0.45
    matrix_lr: float = 0.02
    embedding_lr: float = 0.004
    gain_lr: float = 0.002
    seed: int = 20_261_121
    shard_dialogues: int = 4096
    curriculum_shards: int = 6

    def scale(self, step: int, end: int) -> float:
        """The share of the full learning rate at a step of a run of ``end`` steps."""
        decay_steps = max(1.0, self.decay_share * end)
        return max(0.0, min(1.0, (step + 1) / self.warmup_steps, (end - step) / decay_steps))

    def level(self, shard: int) -> float:
        """The difficulty of a shard in 0..1: contexts start short."""
        return min(1.0, shard / self.curriculum_shards)


# The shipped small was ended at step 9,600 with --end-at-step; 20,000 steps are what it deserves.
RECIPES = {
    "draft": Recipe(steps=9_000),
    "small": Recipe(steps=20_000),
    "base": Recipe(steps=20_000, batch_tokens=32_768, matrix_lr=0.015, shard_dialogues=32_768),
}
