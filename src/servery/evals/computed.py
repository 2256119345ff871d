"""By what and in which types an engine computed: equal settings compute otherwise where there are other kernels."""

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from servery.engine.stats import EngineInfo


class Computed(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings came to on the machine of a run.

    `dtype` is what it computed in, `kernels` by what; `weight_dtype` and `kv_dtype` are what both were held in.
    """

    kernels: str
    dtype: str
    weight_dtype: str
    kv_dtype: str

    @classmethod
    def of(cls, info: "EngineInfo") -> "Computed":
        """What an engine that is loaded computes by."""
        return cls(kernels=info.kernels, dtype=info.dtype, weight_dtype=info.weight_dtype, kv_dtype=info.kv_dtype)

    def __str__(self) -> str:
        return f"{self.kernels} in {self.dtype}, weights {self.weight_dtype}, keys and values {self.kv_dtype}"
