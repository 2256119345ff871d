"""What has to be the same on all machines is compared, and what is said of a difference names both sides."""

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from servery import __version__
from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError
from servery.engine.ranks.node_line import Hello
from servery.engine.ranks.required import Required, torch_version

REQUIRED = Required("1.0", "2.13.0", 3, {"config.json": "a", "model.safetensors": "b"}, 2, 3)
HELLO = Hello("1.0", "2.13.0", 3, 2, {"config.json": "a", "model.safetensors": "b"})


@pytest.mark.parametrize(
    "hello",
    [HELLO, structs.replace(HELLO, node_rank=1), structs.replace(HELLO, tensor_parallel=2, pipeline_parallel=3)],
)
def test_who_has_the_same_may_come(hello: Hello) -> None:
    assert REQUIRED.objection(hello) is None


@pytest.mark.parametrize(
    ("changes", "objection"),
    [
        ({"version": "1.1"}, "it has servery 1.1, the head 1.0; install the same on all nodes."),
        ({"torch": "2.12.0"}, "it has torch 2.12.0, the head 2.13.0; install the same on all nodes."),
        ({"nnodes": 2}, "its --nnodes is 2, the head's 3; say the same on all nodes."),
        ({"tensor_parallel": 4}, "its --tensor-parallel is 4, the head's 2; say the same on all nodes."),
        ({"pipeline_parallel": 1}, "its --pipeline-parallel is 1, the head's 3; say the same on all nodes."),
        ({"node_rank": 3}, "its --node-rank is 3; with --nnodes 3 it is 1 to 2."),
        ({"node_rank": 0}, "its --node-rank is 0; with --nnodes 3 it is 1 to 2."),
        (
            {"model": {"config.json": "a", "model.safetensors": "c"}},
            "its model is another than the head's: model.safetensors differ. Give all nodes the same files.",
        ),
    ],
)
def test_a_difference_is_refused_with_both_sides(changes: dict, objection: str) -> None:
    assert REQUIRED.objection(structs.replace(HELLO, **changes)) == objection


def test_what_is_required_is_what_is_here(tiny: Path) -> None:
    config = EngineConfig(model=tiny, pipeline_parallel=2, nnodes=2, master_addr="127.0.0.1")
    required = Required.of(config)
    assert replace(required, model={}) == Required(__version__, torch_version(), 2, {}, 1, 2)
    assert set(required.model) == {"config.json", "model.safetensors"}
    with pytest.raises(LoadError, match=r"nowhere/config\.json cannot be read: No such file"):
        Required.of(replace(config, model=Path("nowhere")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"nnodes": 2, "pipeline_parallel": 2},
            "nnodes is 2, but nobody knows where the others come to: say with master_addr",
        ),
        ({"master_addr": "10.0.0.1"}, "there is master_addr, but nnodes is 1"),
        ({"nnodes": 2, "master_addr": "a", "pipeline_parallel": 3}, "3 processes cannot be spread evenly over so many"),
        ({"nnodes": 2, "master_addr": "a"}, "1 processes cannot be spread evenly"),
        ({"nnodes": 0}, "nnodes is 0; it must be at least 1"),
        ({"master_port": 70000}, "master_port is 70000; it must be at most 65535"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        EngineConfig(model=Path("m"), **settings)
