"""`servery worker` on the command line: a machine that computes a part of a model which another one serves."""

import argparse
import logging

from servery.engine_options import add_meeting_options
from servery.logs import TEXT, set_up_logging
from servery.option_value import at_least


def worker(options: argparse.Namespace) -> int:
    """Compute a part of a model that another machine serves, with --nnodes there.

    It waits for the head, reads its part of MODEL from its own disk, and leaves when the head goes: with 0 when the head
    has ended, with 1 when it is lost. Settings of the engine are the head's. The head listens at --master-addr alone; that
    network has to be a private one.

    Example:
      servery serve /models/Llama-3.1-70B --tensor-parallel 8 --pipeline-parallel 2 --nnodes 2 --master-addr 10.0.0.1
      servery worker /models/Llama-3.1-70B --nnodes 2 --node-rank 1 --master-addr 10.0.0.1
    """
    from servery.engine.ranks.worker import WorkerOptions, work
    from servery.server.options import served_models

    set_up_logging(logging.INFO, TEXT, "%(levelname)s: %(message)s")
    (named,) = served_models([options.model], {})
    return work(
        WorkerOptions(
            model=named.engine.model,
            nnodes=options.nnodes,
            node_rank=options.node_rank,
            master_addr=options.master_addr,
            master_port=options.master_port,
            join_timeout_s=options.join_timeout,
            tensor_parallel=options.tensor_parallel,
            pipeline_parallel=options.pipeline_parallel,
            threads=options.threads,
        )
    )


def add_worker_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of `servery worker`."""
    add = verb.add_argument
    add("model", metavar="MODEL", help="the head's model, as it lies on this machine")
    add("--nnodes", type=at_least(2), required=True, metavar="N", help="machines in all, as the head has it")
    add(
        "--node-rank",
        type=at_least(1),
        required=True,
        metavar="RANK",
        help="number of this one: 1, 2, ...; the head is 0",
    )
    add_meeting_options(add, "of the head", is_required=True)
    add("--tensor-parallel", type=at_least(1), metavar="N", help="if given, it has to be the head's")
    add("--pipeline-parallel", type=at_least(1), metavar="N", help="if given, it has to be the head's")
    add("--threads", type=at_least(1), metavar="N", help="threads of each process here; else the cores shared evenly")
