"""How a checkpoint stores the matrices of its linear layers: the seam between the loader and a format."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from servery.engine.checkpoint import StoredTensor
from servery.engine.cut import Cut
from servery.engine.errors import LoadError
from servery.engine.quantization.dividing import COLUMNS, ROWS, Axes, divide
from servery.engine.quantization.matrix import DenseMatrix, Matrix

FLOATS = frozenset({"F32", "BF16", "F16"})


class StoredModule(Mapping[str, StoredTensor]):
    """The stored tensors of one module, without its bias, by what follows the module's name: "weight", "qweight".

    `used` are the ones that were asked for; the loader refuses what is left over. Of a part of a module `shape` is that
    of the part, and `group_columns`, where columns were left out, of how many its groups are: its own, or those of all.
    """

    def __init__(self, name: str, tensors: Mapping[str, StoredTensor], source: Path) -> None:
        self.name = name
        self.used: set[str] = set()
        self.shape: tuple[int, int] = (0, 0)
        self.group_columns: int | None = None
        self._tensors = tensors
        self._source = source

    def part(self, shape: tuple[int, int], cut: Cut, axes: Mapping[str, Axes]) -> "StoredModule | None":
        """What `cut` leaves of a matrix `shape`, see `divide`; what is asked for of it counts as used of this."""
        tensors = divide(self._tensors, shape, cut, axes)
        if tensors is None:
            return None
        made = StoredModule(self.name, tensors, self._source)
        rows, columns = cut.shape(shape)
        made.used, made.shape = self.used, (rows, columns)
        return made

    def __getitem__(self, suffix: str) -> StoredTensor:
        tensor = self._tensors[suffix]
        self.used.add(suffix)
        return tensor

    def __contains__(self, suffix: object) -> bool:
        return suffix in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def is_dense(self) -> bool:
        """Whether all there is are floating-point values."""
        return all(suffix == "weight" and tensor.dtype in FLOATS for suffix, tensor in self._tensors.items())

    @property
    def nbytes(self) -> int:
        """Bytes of all of them in the file."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    @property
    def used_bytes(self) -> int:
        """Bytes of those that were asked for."""
        return sum(self._tensors[suffix].nbytes for suffix in self.used)

    def shape_of(self, suffix: str) -> tuple[int, ...]:
        """That of a tensor, without asking for it; () where there is none."""
        return self._tensors[suffix].shape if suffix in self._tensors else ()

    def need(self, suffix: str, shape: tuple[int, ...] | None = None) -> StoredTensor:
        """The tensor with that suffix, of that shape; raises `LoadError` where it is missing or has another."""
        if suffix not in self._tensors:
            raise LoadError(f"{self._source} lacks tensor {self.name}.{suffix}. Download the checkpoint again.")
        tensor = self[suffix]
        if shape is not None:
            check_shape(tensor, shape)
        return tensor


class WeightFormat(Protocol):
    """Reads the matrix of a module, whatever tensors it is stored as."""

    def matrix(self, module: str, shape: tuple[int, int], stored: StoredModule) -> Matrix:
        """The matrix `shape` of `module`; it may share the file's memory. Raises `LoadError` naming file and tensor.

        Dense matrices are converted to the type of the model afterwards, other layouts stay as they are.
        """
        ...

    def divided(self, stored: StoredModule, shape: tuple[int, int], cut: Cut) -> StoredModule | None:
        """The module without what a part of its matrix `shape` does not need; None where all of it has to be read.

        `matrix` makes of it the matrix of the part.
        """
        ...

    def is_redundant(self, name: str) -> bool:
        """Whether the stored tensor `name` may be passed over: it holds nothing that the model needs."""
        ...


class DenseFormat:
    """Every matrix is one tensor of floating-point values."""

    def matrix(self, module: str, shape: tuple[int, int], stored: StoredModule) -> Matrix:
        """The values as stored."""
        return dense_matrix(stored, shape)

    def divided(self, stored: StoredModule, shape: tuple[int, int], cut: Cut) -> StoredModule | None:
        """Some of the values."""
        return divided_dense(stored, shape, cut)

    def is_redundant(self, name: str) -> bool:
        """Nothing is."""
        return False


def divided_dense(stored: StoredModule, shape: tuple[int, int], cut: Cut) -> StoredModule | None:
    """Of a module that is not quantized, some of the values."""
    return stored.part(shape, cut, {"weight": (ROWS, COLUMNS)})


def dense_matrix(stored: StoredModule, shape: tuple[int, int]) -> Matrix:
    """The matrix of a module that is not quantized, as `lm_head` often is in a quantized checkpoint."""
    if "weight" not in stored and "qweight" in stored:
        raise LoadError(
            f"{stored['qweight'].path}: {stored.name} is stored as {', '.join(sorted(stored))}, which is quantized, "
            "but config.json has no quantization_config that says how. Add it, or use the original checkpoint."
        )
    tensor = stored.need("weight", shape)
    check_float(tensor)
    return DenseMatrix(tensor.load())


def check_shape(tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    """Raise `LoadError` with both shapes unless `tensor` has `shape`."""
    if tensor.shape != shape:
        raise LoadError(
            f"{tensor.path}: tensor {tensor.name} has shape {list(tensor.shape)}; "
            f"by config.json it must be {list(shape)}."
        )


def check_float(tensor: StoredTensor) -> None:
    """Raise `LoadError` unless `tensor` holds plain floating-point values."""
    if tensor.dtype not in FLOATS:
        raise LoadError(
            f"{tensor.path}: tensor {tensor.name} is stored as {tensor.dtype}; weights must be F32, BF16 or F16, "
            "unless config.json has a quantization_config that says how they are quantized."
        )
