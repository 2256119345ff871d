"""`servery bench` on the command line; the function's docstring is its help."""

import argparse

from servery.bench.span import Span
from servery.option_value import at_least, file_to_write


def bench(options: argparse.Namespace) -> int:
    """Measure a model behind an address: TTFT, TPOT, ITL and E2E percentiles, tokens per second, errors.

    A closed loop: each of N clients sends its next request when the last one is answered, so the load backs off when
    the server is slow. The figures say how it feels for N users at once, not what it does at a given request rate.
    Against an embedded engine on this machine the memory bandwidth is measured too, and the share of it that the
    engine's steps achieved (MBU). The exit code is 1 when any request failed.

    Example:
      servery bench --concurrency 8 --requests 200 --prompt-tokens 200 --output-tokens 50:150 --json bench.json
    """
    from servery.bench.run import BenchOptions, run

    return run(
        BenchOptions(
            url=options.url,
            model=options.model,
            api_key=options.client_key(options.api_key),
            concurrency=options.concurrency,
            requests=options.requests,
            warmup=options.concurrency if options.warmup is None else options.warmup,
            prompt_tokens=options.prompt_tokens,
            shared_prefix_tokens=options.shared_prefix_tokens,
            output_tokens=options.output_tokens,
            stop_at_eos=options.stop_at_eos,
            temperature=options.temperature,
            seed=options.seed,
            timeout_s=options.timeout,
            measures_bandwidth=options.bandwidth,
            json_path=options.json,
        )
    )


def add_bench(verb: argparse.ArgumentParser) -> None:
    """Add the options of `servery bench` besides those of every client."""
    verb.set_defaults(temperature=0.0, seed=0)
    add, span = verb.add_argument, "N or LOW:HIGH, drawn evenly"
    add("--concurrency", type=at_least(1), default=8, metavar="N", help="clients at the same time")
    add("--requests", type=at_least(1), default=200, metavar="M", help="requests in all")
    add("--warmup", type=at_least(0), metavar="N", help="requests before, not counted; else one per client")
    add("--prompt-tokens", type=_token_span, default="200", metavar="X[:Z]", help=f"length of a prompt: {span}")
    add("--output-tokens", type=_token_span, default="100", metavar="Y[:Z]", help=f"length of an answer: {span}")
    add("--shared-prefix-tokens", type=at_least(0), default=0, metavar="N", help="tokens that all prompts begin with")
    add("--stop-at-eos", action="store_true", help="let answers end themselves; --output-tokens is then the most")
    add("--no-bandwidth", dest="bandwidth", action="store_false", help="do not measure this machine's bandwidth")
    add(
        "--json",
        type=file_to_write,
        metavar="FILE",
        help="write everything measured there; - for stdout instead of a table",
    )


def _token_span(text: str) -> Span:
    """A length or a range of lengths: `200` or `100:300`."""
    try:
        return Span.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
