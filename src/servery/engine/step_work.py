"""What steps have done: how many, how large, and how much they read and computed. Whole numbers, and rates of the last ones."""

import math
from bisect import bisect_left
from dataclasses import dataclass, field

from servery.engine.architecture import ModelConfig
from servery.engine.step import Step
from servery.engine.step_sizes import STEP_SIZES

# A step weighs 1/e of what it did after so many seconds of later ones.
RATE_S = 10.0


class StepOperations:
    """The floating-point operations of a model's products: two for each weight that a position meets.

    A position goes through all layers, of experts through those it is sent to; the head is for positions that predict.
    Attention multiplies each query with every key and each weight with every value that it sees, in every head and layer;
    windows are not taken off. Norms, rotations and sampling are not counted (they are in no definition of MFU).
    """

    __slots__ = ("per_pair", "per_position", "per_prediction")

    def __init__(self, config: ModelConfig) -> None:
        head = config.vocab_size * config.hidden_size
        weights = config.num_parameters - head * (1 if config.tie_embeddings else 2)
        if config.experts is not None:
            idle = config.experts.count - config.experts.per_token
            weights -= sum(config.experts.layers) * idle * config.experts.expert_parameters(config.hidden_size)
        latent = config.latent
        seen = 2 * config.head_dim if latent is None else latent.width + latent.kv_rank
        self.per_position = 2 * weights
        self.per_prediction = 2 * head
        self.per_pair = 2 * config.num_layers * config.num_heads * seen

    def of(self, step: Step) -> int:
        """Those of one step."""
        positions = pairs = predictions = 0
        for item in step.scheduled:
            count = item.count
            positions += count
            pairs += count * item.start + count * (count + 1) // 2
            if item.samples:
                predictions += 1 + item.num_drafts
        return positions * self.per_position + pairs * self.per_pair + predictions * self.per_prediction


@dataclass(slots=True)
class StepWork:
    """Counters since the engine started, and what the steps of the last seconds did in their time."""

    steps: int = 0
    step_s: float = 0.0
    step_tokens: int = 0
    read_bytes: int = 0
    operations: int = 0
    host_s: float = 0.0
    decode_steps: int = 0
    decode_s: float = 0.0
    decode_host_s: float = 0.0
    step_sizes: list[int] = field(default_factory=lambda: [0] * (len(STEP_SIZES) + 1))
    recent_s: float = 0.0
    recent_bytes: float = 0.0
    recent_operations: float = 0.0

    def add(self, num_tokens: int, elapsed_s: float, read_bytes: int, operations: int) -> None:
        """Count a step."""
        self.steps += 1
        self.step_s += elapsed_s
        self.step_tokens += num_tokens
        self.read_bytes += read_bytes
        self.operations += operations
        self.step_sizes[bisect_left(STEP_SIZES, num_tokens)] += 1
        keep = math.exp(-elapsed_s / RATE_S)
        self.recent_s = keep * self.recent_s + elapsed_s
        self.recent_bytes = keep * self.recent_bytes + read_bytes
        self.recent_operations = keep * self.recent_operations + operations

    def add_host(self, host_s: float, decoded_s: float | None) -> None:
        """Count what the host was at work for the newest step; `decoded_s` is how long that took, if it only decoded."""
        self.host_s += host_s
        if decoded_s is not None:
            self.decode_steps += 1
            self.decode_s += decoded_s
            self.decode_host_s += host_s

    @property
    def bytes_per_s(self) -> float | None:
        """What steps read at least, of late; None before the first."""
        return self.recent_bytes / self.recent_s if self.recent_s else None

    @property
    def operations_per_s(self) -> float | None:
        """What they computed, of late; None before the first."""
        return self.recent_operations / self.recent_s if self.recent_s else None
