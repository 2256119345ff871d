"""From a folder in PEFT's layout to an `Adapter`: everything is checked against the base before it is used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from servery.engine.adapter_source import WEIGHTS_FILE, AdapterInfo, AdapterSource
from servery.engine.architecture import ModelConfig
from servery.engine.checkpoint import Checkpoint, StoredTensor
from servery.engine.errors import LoadError
from servery.engine.lora.adapter import ADAPTER_DTYPE, Adapter, Delta
from servery.engine.lora.adapter_config import SERVE_MERGED, AdapterConfig
from servery.engine.lora.sites import Site, sites_of
from servery.engine.rope import head_order

_MATRIX = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<matrix>[AB])\.weight")
_DTYPES = ("F32", "BF16", "F16")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLimits:
    """What adapters of one base must keep to: how many there are, and the largest rank."""

    max_loras: int
    max_rank: int


def read_adapter(source: AdapterSource, adapter_id: int, model: ModelConfig, max_rank: int) -> Adapter:
    """Read the adapter for a base that `model` describes, the scale multiplied into B.

    Raises `LoadError` naming file, tensor, what is there and what to do.
    """
    config = AdapterConfig.read(source.path)
    sites = sites_of(model)
    matrices = _matrices(_weights_file(source.path), config, sites, max_rank)
    _refuse_missing(source.path, config, sites, matrices)
    deltas = _deltas(model, sites, matrices)
    info = AdapterInfo(
        adapter_id=adapter_id,
        name=source.name,
        rank=max(len(each["A"]) for each in matrices.values()),
        num_modules=len(matrices),
        nbytes=sum(delta.nbytes for delta in deltas.values()),
    )
    return Adapter(info, deltas)


def _weights_file(directory: Path) -> Path:
    path = directory / WEIGHTS_FILE
    if not path.exists():
        others = sorted(other.name for other in directory.glob("*.bin"))
        found = f" It has {', '.join(others)}: convert it to safetensors." if others else ""
        raise LoadError(f"{directory} has no {WEIGHTS_FILE}.{found}")
    return path


def _matrices(
    path: Path, config: AdapterConfig, sites: Mapping[str, Site], max_rank: int
) -> dict[str, dict[str, Tensor]]:
    """A [rank, in] and scaled B [rows, rank] of each module. All is checked before any data is read."""
    matrices: dict[str, dict[str, Tensor]] = {}
    with Checkpoint(path.parent, {path: None}).open() as tensors:
        places = _places(tensors, config, sites, max_rank)
        for (module, matrix), stored in places.items():
            data = stored.load().to(ADAPTER_DTYPE, copy=True)
            data = data * config.scale_of(module) if matrix == "B" else data
            if not data.isfinite().all():
                raise LoadError(
                    f"{path}: tensor {stored.name} has values that are no finite numbers, or become none when they are "
                    "multiplied by lora_alpha. Train it again."
                )
            matrices.setdefault(module, {})[matrix] = data
    return matrices


def _places(
    tensors: Mapping[str, StoredTensor], config: AdapterConfig, sites: Mapping[str, Site], max_rank: int
) -> dict[tuple[str, str], StoredTensor]:
    """The stored tensors by module and letter, each as it must be."""
    places: dict[tuple[str, str], StoredTensor] = {}
    for stored in tensors.values():
        place = _place(stored, sites)
        if place in places:
            raise LoadError(f"{stored.path}: tensor {stored.name} is there with and without PEFT's prefix; remove one.")
        if stored.dtype not in _DTYPES:
            raise LoadError(
                f"{stored.path}: tensor {stored.name} is stored as {stored.dtype}; adapters are {', '.join(_DTYPES)}."
            )
        module, matrix = place
        if not config.is_target(module):
            raise LoadError(
                f"{stored.path}: tensor {stored.name} adapts {module}, which {config.path.name} leaves out "
                f"({config.why_not(module)}): remove the tensor, or add the module."
            )
        _check_shape(stored, matrix, sites[module], config.rank_of(module), max_rank, config)
        places[place] = stored
    return places


def _place(stored: StoredTensor, sites: Mapping[str, Site]) -> tuple[str, str]:
    """The module and the letter of a stored matrix."""
    found = _MATRIX.fullmatch(stored.name)
    if found is None:
        raise LoadError(f"{stored.path}: tensor {stored.name} {_strange(stored.name)}; {SERVE_MERGED}.")
    if found["module"] not in sites:
        raise LoadError(
            f"{stored.path}: tensor {stored.name} {_elsewhere(found['module'])}. Adapted can be the projections of "
            f"attention and of MLPs, {_examples(sites)}."
        )
    return found["module"], found["matrix"]


def _strange(name: str) -> str:
    if "lora_magnitude_vector" in name:
        return "belongs to DoRA, which is not supported"
    if "lora_embedding" in name:
        return "adapts the embedding, which is not supported"
    return "is neither A nor B of a LoRA pair: weights that were trained whole are not supported"


def _elsewhere(module: str) -> str:
    last = module.rpartition(".")[2]
    if ".experts." in module or last in {"gate", "router"}:
        return f"adapts {module}: experts and routers of a mixture cannot be adapted"
    if last in {"lm_head", "embed_tokens"}:
        return f"adapts {module}: the embedding and the head cannot be adapted"
    return f"adapts {module}, which the base does not have or cannot adapt: is it the adapter of another model?"


def _examples(sites: Mapping[str, Site]) -> str:
    ends = dict.fromkeys(module.rpartition(".")[2] for module in sites)
    return f"here {', '.join(ends)}"


def _check_shape(
    stored: StoredTensor, matrix: str, site: Site, rank: int, max_rank: int, config: AdapterConfig
) -> None:
    if rank > max_rank:
        raise LoadError(
            f"{config.path}: the rank is {rank}, and the engine takes adapters up to rank {max_rank}; start it with "
            f"--max-lora-rank {rank} or more."
        )
    expected = (rank, site.in_features) if matrix == "A" else (site.rows, rank)
    if stored.shape != expected:
        raise LoadError(
            f"{stored.path}: tensor {stored.name} has shape {list(stored.shape)}; by {config.path.name} and the base it "
            f"must be {list(expected)}. Is it the adapter of another model?"
        )


def _refuse_missing(
    directory: Path, config: AdapterConfig, sites: Mapping[str, Site], matrices: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Both halves of every pair must be there, and a pair for every module that the config names."""
    wanted = {module for module in sites if module in matrices or config.is_target(module)}
    missing = [
        f"{module}.lora_{matrix}" for module in sites if module in wanted for matrix in "AB"
        if matrix not in matrices.get(module, {})
    ]  # fmt: skip
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise LoadError(f"{directory / WEIGHTS_FILE} lacks {', '.join(missing[:3])}{more}. Save or download it again.")
    if not matrices:
        raise LoadError(f"{config.path}: target_modules names nothing that can be adapted, {_examples(sites)}.")


def _deltas(
    model: ModelConfig, sites: Mapping[str, Site], matrices: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Delta]:
    modules_of: dict[str, list[str]] = {}
    for module, site in sites.items():  # in the order of a linear's rows
        if module in matrices:
            modules_of.setdefault(site.key, []).append(module)
    return {key: _delta(model, sites, matrices, modules) for key, modules in modules_of.items()}


def _delta(
    model: ModelConfig, sites: Mapping[str, Site], matrices: Mapping[str, Mapping[str, Tensor]], modules: list[str]
) -> Delta:
    parts = []
    first_rank = 0
    for module in modules:
        site, up = sites[module], matrices[module]["B"]
        ranks = slice(first_rank, first_rank + up.shape[1])
        parts.append((slice(site.first, site.first + site.rows), ranks, _ordered(model, site, up).t().contiguous()))
        first_rank = ranks.stop
    return Delta(torch.cat([matrices[module]["A"] for module in modules]).t().contiguous(), parts)


def _ordered(model: ModelConfig, site: Site, up: Tensor) -> Tensor:
    """B with the rows of query and key heads in the order that the loader gives those of the weights."""
    layer, _, linear = site.key.partition(".")
    order = head_order(model.ropes[int(layer)], model.head_dim)
    if linear != "qkv" or order is None:
        return up
    rotating = max(0, min(site.rows, (model.num_heads + model.num_kv_heads) * model.head_dim - site.first))
    heads = up[:rotating].view(-1, model.head_dim, up.shape[1])
    return torch.cat((heads.index_select(1, order).flatten(0, 1), up[rotating:]))
