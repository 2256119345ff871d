"""What is quickest is found by trying, kept by the name of a GPU, and taken."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_tiles
from servery.engine.cuda import coded_weight, measured, tile_search
from servery.engine.cuda.attention import PagedAttention
from servery.engine.cuda.coded_weight import CodedWeight
from servery.engine.cuda.measured import Measured, keep, measured_on
from servery.engine.cuda.product_tiles import FEW_ROWS, MANY_ROWS, ProductTile
from servery.engine.cuda.step_shape import StepShape
from servery.engine.cuda.tile_search import search_attention, search_many_rows, search_product
from servery.engine.cuda.tiles import FEW, MANY, TileTable
from servery.engine.quantization.matrix import DenseMatrix
from tests.engine.attention.world import World, shape
from tests.engine.cuda.world import rows_of

FOUND = Measured(
    {(128, 2, 1): TileTable(FEW[2], MANY[1])},
    {"int4": ProductTile(16, 32, 2, 5)},
    {"int4": 48, "int8": 128},
    {StepShape(True, 4, 1024): "varlen"},
)


def test_what_was_found_is_read_as_it_was_told() -> None:
    assert Measured.read(json.loads(json.dumps(FOUND.as_json()))) == FOUND
    assert (FOUND.rows_of("int4"), FOUND.rows_of("fp8")) == (48, MANY_ROWS)


def test_a_gpu_is_known_by_its_name(tmp_path, monkeypatch) -> None:
    file = tmp_path / "measured.json"
    file.write_text("{}")
    monkeypatch.setattr(measured, "_FILE", file)
    measured_on.cache_clear()
    try:
        assert measured_on("NVIDIA H100") == Measured()
        assert keep("NVIDIA H100", FOUND) == file
        assert measured_on("NVIDIA H100") == FOUND
        assert measured_on("NVIDIA T4") == Measured()
    finally:
        measured_on.cache_clear()


def test_the_packages_own_file_can_be_read() -> None:
    for fields in json.loads(measured._FILE.read_text()).values():
        assert Measured.read(fields).as_json() == fields


def test_measured_tiles_are_taken_for_the_cache_they_were_measured_with() -> None:
    world = World(shape(1, 1, 128, (None,)), [(3, 1)], 4, [0])
    table = TileTable(FEW[6], MANY[4])
    kernels = PagedAttention(world.config, measured=Measured({(128, 4, 4): table}))
    assert kernels._tiles_for(world.cache) == table
    assert kernels._tiles_for(SimpleNamespace(dtype=torch.bfloat16, format=world.cache.format)) != table


def test_attention_is_searched_among_tiles_with_room_for_the_quickest(monkeypatch) -> None:
    """The clock says how long a tile takes by how often it was asked; what does not fit the device is never taken."""
    world = World(shape(1, 1, 128, (None,)), [(3, 1)], 4, [0])
    tried: list[TileTable] = []

    class Attention:
        def __init__(self, config, tiles: TileTable) -> None:
            del config
            tried.append(tiles)

        def plan(self, batch, cache) -> SimpleNamespace:
            del batch, cache
            return SimpleNamespace(attend=lambda layer, query: None)

    monkeypatch.setattr(tile_search, "PagedAttention", Attention)
    world.cache.dtype = torch.bfloat16
    times = iter([3.0, 2.0, RuntimeError("out of shared memory"), *[2.5] * 20])

    def seconds(call) -> float:
        call()
        time = next(times)
        if isinstance(time, RuntimeError):
            raise time
        return time

    rows = rows_of(world.batch)
    found = search_attention(world.config, world.cache, rows, rows, seconds)
    assert found.few == tried[1].few
    assert found.many == tried[len({table.few for table in tried})].many


def test_products_are_searched_for_their_tile_and_for_where_they_end(monkeypatch) -> None:
    weight = CodedWeight.of(DenseMatrix(torch.zeros(8, 8)))
    assert weight is not None
    monkeypatch.setattr(coded_weight.CodedWeight, "product", lambda self, x, tile=None: (self, x, tile)[2])
    best = FEW_ROWS[2]
    assert search_product(weight, torch.zeros(1, 8), lambda call: 1.0 if call() == best else 2.0) == best
    times = iter([1.0, 2.0, 1.5, 1.2])
    assert search_many_rows(weight, torch.zeros(64, 8), [16, 32, 64], best, lambda call: (call(), next(times))[1]) == 32
    assert search_many_rows(weight, torch.zeros(64, 8), [16], best, lambda call: float(call() is not None)) == 17


@pytest.mark.parametrize("tile", FEW_ROWS)
def test_every_tile_multiplies(tile: ProductTile) -> None:
    x, w = torch.randn(2, 64), torch.randn(40, 64)
    weight = CodedWeight.of(DenseMatrix(w))
    assert weight is not None
    torch.testing.assert_close(weight.product(x, tile=tile), x @ w.t(), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it runs for minutes")
def test_without_a_gpu_there_is_nothing_to_find(capsys) -> None:
    assert gpu_tiles.main([]) == 2
    assert "no GPU" in capsys.readouterr().err
