"""All layers of a step in one call of the native kernels."""

from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_double, cast, pointer

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.doorbell import Interrupted, Interruption
from servery.engine.embedding import Embedding
from servery.engine.kv import KVCache
from servery.engine.native.attention import NativeAttention, first_extent
from servery.engine.native.embedding import PanelEmbedding
from servery.engine.native.library import (
    BAD_SHAPE,
    BF16,
    F32,
    INTERRUPTED,
    ModelStruct,
    NativeContext,
    RowsStruct,
    StepStruct,
    rows_struct,
)
from servery.engine.native_plan import LayerPlan

PARTS = ("linears", "attention", "rest")
_TYPES = {torch.float32: F32, torch.bfloat16: BF16}


class NativeLoop:
    """What `Decoder.forward` computes, for a model whose every part has a kernel."""

    def __init__(
        self,
        context: NativeContext,
        plan: LayerPlan,
        attention: NativeAttention,
        embedding: Embedding | PanelEmbedding,
        config: ModelConfig,
        dtype: torch.dtype,
    ) -> None:
        self._context = context
        self._plan = plan
        self._attention = attention
        self._embedding = embedding
        self._hidden_size = config.hidden_size
        self._dtype = dtype
        self._cache: KVCache | None = None
        self._listener: Callable[[str, float], None] | None = None
        self._seconds = (c_double * len(PARTS))()
        self._step = StepStruct()
        plan.model.type = _TYPES[dtype]
        self.embeds = _embed(plan.model, embedding, config, dtype)

    def takes(self, cache: KVCache) -> bool:
        """Whether the kernels read the format of a cache."""
        return self._attention.reads(cache)

    def listen(self, listener: Callable[[str, float], None] | None) -> None:
        """Let each step tell how many seconds each of `PARTS` took."""
        self._listener = listener
        self._step.seconds = None if listener is None else cast(self._seconds, POINTER(c_double))

    def run(
        self,
        batch: Batch,
        cache: KVCache,
        angles: Sequence[Tensor],
        given: Tensor | None,
        interruption: Interruption | None,
    ) -> Tensor:
        """Final hidden states [tokens, hidden_size]; the keys and values are in `cache` then. Raises `Interrupted`."""
        if cache is not self._cache:
            self._bind(cache)
        out = torch.empty((len(batch.input_ids), self._hidden_size), dtype=self._dtype)
        first = first_extent(batch)
        tables = (RowsStruct * len(angles))(*(_rows(table) for table in angles))
        step = self._step
        step.tokens = len(out)
        step.ids, step.positions = batch.input_ids.data_ptr(), batch.positions.data_ptr()
        step.slots = batch.slots.data_ptr()
        step.extents, step.extent, step.angles = len(batch.starts), pointer(first), tables
        step.out = _rows(out)
        if given is not None:
            step.given = _rows(given)
        step.rings = None if interruption is None else interruption.bell.address
        step.heard = 0 if interruption is None else interruption.heard
        status = self._context.library.servery_step(self._context.handle, byref(self._plan.model), byref(step))
        if status == INTERRUPTED:
            raise Interrupted
        if status:
            raise self._complaint(status, batch)
        self._tell()
        return out

    def _bind(self, cache: KVCache) -> None:
        for index, struct in enumerate(self._attention.layers(cache)):
            self._plan.model.layer[index].attention = struct
        self._cache = cache

    def _tell(self) -> None:
        if self._listener is None:
            return
        for at, name in enumerate(PARTS):
            self._listener(name, self._seconds[at])
            self._seconds[at] = 0.0

    def _complaint(self, status: int, batch: Batch) -> Exception:
        if status == BAD_SHAPE:
            return ValueError(
                f"token ids up to {int(batch.input_ids.max())}; this model has {self._plan.model.vocab_size} tokens."
            )
        return MemoryError(f"no memory for a step of {len(batch.input_ids)} tokens.")


def _embed(model: ModelStruct, embedding: Embedding | PanelEmbedding, config: ModelConfig, dtype: torch.dtype) -> bool:
    """Tell the loop where embeddings are; False if they are codes, which have to be given as numbers."""
    # Rounded to the type of the model, as `Decoder` does.
    model.embedding_scale = float(torch.tensor(config.embedding_scale, dtype=dtype))
    if isinstance(embedding, PanelEmbedding):
        model.embedding, model.vocab_size = pointer(embedding.head.struct), embedding.head.shape[0]
    elif embedding.dense is not None and embedding.dense.dtype in _TYPES:
        model.embedding_rows, model.vocab_size = _rows(embedding.dense), len(embedding.dense)
    else:
        model.embedding_scale = 1.0
        return False
    return True


def _rows(values: Tensor) -> RowsStruct:
    return rows_struct(values.data_ptr(), _TYPES[values.dtype], values.stride(0))
