"""What one of several processes has of a model: some layers, and of each of them some heads and some of the MLP. No torch.

Tensor parallelism as in Megatron-LM (arXiv 1909.08053): the first matrix of each half of a layer is divided by output
rows, the second by input columns, so that a half ends with one sum over all processes. Query heads are divided evenly.
Key heads too, where there are enough; else several processes have the same one. Each expert of a mixture is divided
like an MLP, so that all processes have the same work whoever a token goes to. The embedding and the head are divided by
tokens.

Pipeline parallelism divides the layers: the first stage has the embedding and the head besides, the last the last norm.
"""

import dataclasses
from dataclasses import dataclass

from servery.engine.architecture import ModelConfig
from servery.engine.config import EngineConfig
from servery.engine.cut import WHOLE, Cut
from servery.engine.errors import LoadError
from servery.engine.traits import Clamp
from servery.engine.weight_map import Source


@dataclass(frozen=True, slots=True)
class Ranks:
    """`tensor` times `pipeline` processes; number `rank` is process `rank % tensor` of stage `rank // tensor`.

    Each of `nodes` machines has as many of them, in order.
    """

    tensor: int = 1
    pipeline: int = 1
    rank: int = 0
    nodes: int = 1

    @property
    def count(self) -> int:
        """How many processes there are."""
        return self.tensor * self.pipeline

    @property
    def per_node(self) -> int:
        """How many there are on each machine."""
        return self.count // self.nodes

    @property
    def local_rank(self) -> int:
        """The number among those of the same machine."""
        return self.rank % self.per_node

    @property
    def tensor_rank(self) -> int:
        """The number among those that share this one's layers."""
        return self.rank % self.tensor

    @property
    def stage(self) -> int:
        """Which part of the layers this one has."""
        return self.rank // self.tensor

    @property
    def is_first(self) -> bool:
        """Whether it has the embedding and the head."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether it has the last norm."""
        return self.stage == self.pipeline - 1

    def with_rank(self, rank: int) -> "Ranks":
        """Another of the processes."""
        return dataclasses.replace(self, rank=rank)


def ranks_of(config: EngineConfig, rank: int = 0) -> Ranks:
    """Process number `rank` of those that a configuration asks for."""
    return Ranks(config.tensor_parallel, config.pipeline_parallel, rank, config.nnodes)


class Part:
    """The part of `whole` that one of the `ranks` has; `config` describes it as if it were a model.

    Raises `LoadError` that says which numbers of processes are possible when the model cannot be divided so.
    """

    def __init__(self, whole: ModelConfig, ranks: Ranks) -> None:
        _check(whole, ranks)
        self.whole = whole
        self.ranks = ranks
        self.layers = layers_of(whole.num_layers, ranks)
        self.config = _local(whole, ranks, self.layers)

    @property
    def vocabulary(self) -> slice:
        """The tokens whose rows of embedding and head it has; the last process may have fewer, or none."""
        size = -(-self.whole.vocab_size // self.ranks.tensor)
        first = min(self.ranks.tensor_rank * size, self.whole.vocab_size)
        return slice(first, min(first + size, self.whole.vocab_size))

    def has(self, key: str) -> bool:
        """Whether it has a target, such as `3.qkv`, at all."""
        layer, _, _ = key.partition(".")
        if layer.isdecimal():
            return int(layer) in self.layers
        return self.ranks.is_last if key == "norm" else self.ranks.is_first

    def cut(self, key: str, source: Source) -> Cut:
        """Which part of a source of the target `key`, the number of the layer left out."""
        size = self.ranks.tensor
        if size == 1:
            return WHOLE
        if key in {"embedding", "head"}:
            return Cut(rows=(self.vocabulary,))
        name = key.removesuffix(".bias")
        if name.startswith("experts."):
            name = name.split(".", 2)[2]
            if name == "down" and source.part == "bias":
                return Cut(is_summed=True)
        return self._of_layer(name.removeprefix("shared."), source)

    def _of_layer(self, name: str, source: Source) -> Cut:
        if name == "qkv":
            return Cut(rows=self._heads(source))
        if name == "sinks":
            return Cut(rows=(self._share(source.shape[0]),))
        if name == "gate_up":
            return Cut(rows=self._gate_up(source))
        if name in {"output", "down"}:
            return WHOLE if source.part == "bias" else Cut(columns=self._share(source.shape[1]))
        if name in {"latent.query_up", "latent.kv_up"} or (name == "latent.down" and self._is_query(source)):
            return Cut(rows=(self._share(source.shape[0]),))
        return WHOLE

    def _share(self, size: int) -> slice:
        each = size // self.ranks.tensor
        return slice(self.ranks.tensor_rank * each, (self.ranks.tensor_rank + 1) * each)

    def _heads(self, source: Source) -> tuple[slice, ...]:
        """Of query, key and value, which a source has all or one of."""
        whole, dim = self.whole, self.whole.head_dim
        query = self._share(whole.num_heads * dim)
        first = self.ranks.tensor_rank * whole.num_kv_heads // self.ranks.tensor
        key = slice(first * dim, (first + self.config.num_kv_heads) * dim)
        begin, size = whole.num_heads * dim, whole.num_kv_heads * dim
        if source.module.endswith((".k_proj", ".v_proj")):
            return (key,)
        if source.module.endswith(".q_proj"):
            return (query,)
        return query, _moved(key, begin), _moved(key, begin + size)

    def _gate_up(self, source: Source) -> tuple[slice, ...]:
        is_fused = not source.module.endswith((".gate_proj", ".up_proj", ".w1", ".w3"))
        if not is_fused or isinstance(self.whole.activation, Clamp):  # interleaved, where it clamps
            return (self._share(source.shape[0]),)
        half = source.shape[0] // 2
        return self._share(half), _moved(self._share(half), half)

    def _is_query(self, source: Source) -> bool:
        return self.whole.latent is not None and source.module.endswith(".q_proj")


def layers_of(num_layers: int, ranks: Ranks) -> range:
    """The layers of a stage; the later ones have one more where they cannot have the same number."""
    first, after = (num_layers * (ranks.stage + more) // ranks.pipeline for more in (0, 1))
    return range(first, after)


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def _local(whole: ModelConfig, ranks: Ranks, layers: range) -> ModelConfig:
    size, span = ranks.tensor, slice(layers.start, layers.stop)
    experts = whole.experts and dataclasses.replace(
        whole.experts,
        layers=whole.experts.layers[span],
        intermediate_size=whole.experts.intermediate_size // size,
        shared_size=whole.experts.shared_size // size,
    )
    return dataclasses.replace(
        whole,
        num_layers=len(layers),
        ropes=whole.ropes[span],
        windows=whole.windows[span],
        num_heads=whole.num_heads // size,
        num_kv_heads=max(1, whole.num_kv_heads // size),
        intermediate_size=whole.intermediate_size // size,
        experts=experts,
    )


def _check(whole: ModelConfig, ranks: Ranks) -> None:
    if ranks.pipeline > whole.num_layers:
        raise LoadError(
            f"--pipeline-parallel is {ranks.pipeline}, but the model has {whole.num_layers} layers; lower it."
        )
    size = ranks.tensor
    if size == 1:
        return
    if whole.wide_qk_norm:
        raise LoadError(
            f"--tensor-parallel {size}: {whole.architecture} normalizes all heads of a token together, which processes "
            "that have some heads each cannot. Take --pipeline-parallel instead."
        )
    sizes = {"attention heads": whole.num_heads}
    if whole.experts is None or not all(whole.experts.layers):
        sizes["columns of the MLP"] = whole.intermediate_size
    if whole.experts is not None:
        sizes["columns of an expert"] = whole.experts.intermediate_size
        if whole.experts.shared_size:
            sizes["columns of the shared expert"] = whole.experts.shared_size
    for name, count in sizes.items():
        if count % size:
            possible = ", ".join(str(n) for n in range(2, 65) if all(each % n == 0 for each in sizes.values()))
            raise LoadError(
                f"--tensor-parallel {size} does not divide the model's {count} {name}; "
                f"{f'it can be {possible}' if possible else 'no number does'}."
            )
    kv = whole.num_kv_heads
    if whole.latent is None and kv % size and size % kv:
        raise LoadError(
            f"--tensor-parallel {size} and the model's {kv} key heads do not fit: one of them must divide the other."
        )
