"""Processes on machines that are not alike are told apart before they compute."""

import pytest
import torch

from servery.engine.errors import LoadError
from servery.engine.ranks.loading import check_alike
from servery.engine.ranks.messages import Loaded


def test_all_processes_compute_in_the_same_type() -> None:
    alike, other = Loaded(8, 100, 100, "bfloat16"), Loaded(8, 100, 100, "float32")
    check_alike(torch.bfloat16, [alike, alike])
    message = "process 2 of the model computes in float32 and the first in bfloat16, .* choose with --dtype what all"
    with pytest.raises(LoadError, match=message):
        check_alike(torch.bfloat16, [alike, other])
