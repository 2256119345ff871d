"""How many threads the engine computes with."""

import os


def default_threads() -> int:
    """One thread less than the cores this process may use: the last core is for HTTP and tokenizing."""
    return max(1, usable_cores() - 1)


def usable_cores() -> int:
    """The cores this process may run on, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_threads(threads: int | None) -> int:
    """Let torch compute with `threads` threads (None: `default_threads()`); returns their number."""
    import torch  # only here, so that whoever counts cores loads none

    chosen = threads or default_threads()
    torch.set_num_threads(chosen)
    return chosen
