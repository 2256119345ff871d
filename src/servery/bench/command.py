"""`servery bench` on the command line: each function's docstring is its help."""

import argparse
from collections.abc import Callable
from typing import Any

from servery.bench.arrivals import Arrivals
from servery.bench.lengths import Lengths, parse_lengths
from servery.bench.options import BenchOptions, LoadOptions, TargetOptions, WorkOptions
from servery.bench.slo import BenchSlo, parse_attainment
from servery.bench.span import Span
from servery.option_value import at_least, between, file_to_write, page_to_write

Verb = Callable[[argparse.Namespace], int]
Add = Callable[[Verb], argparse.ArgumentParser]

_SLO = "limits such as ttft:200ms,tpot:50ms (also e2e, stall), or a preset such as mlperf-llama3.1-8b"


_PROMPT_TOKENS, _OUTPUT_TOKENS = Span(200, 200), Span(100, 100)

HELP = """Measure a model behind an address: latencies, throughput, and how much load it can take within an SLO.

Works against this server and any other that speaks the OpenAI API. Latencies count from when a request was due, so a
server that stalls cannot hide it; figures come with confidence intervals, and a run in which this client itself was
too slow says that it is invalid.

Example:
  servery bench run --rate 4
  servery bench goodput --slo ttft:200ms,tpot:50ms
"""


def run(options: argparse.Namespace) -> int:
    """Measure one load: an open loop at --rate, or a closed loop of --concurrency clients.

    In an open loop requests are sent at times drawn before, whether or not earlier ones are answered: how a service
    meets many users. In a closed loop each client sends its next request when the last is answered, so the load backs
    off when the server is slow: how N users who wait meet it, and no more. Against an embedded engine on this machine
    the memory bandwidth is measured too, and the share of it that the engine's steps achieved (MBU). The exit code is
    1 when any request failed or the run is invalid.

    Example:
      servery bench run --rate 4 --arrivals gamma:3 --slo chat --html run.html
      servery bench run --concurrency 8 --prompt-tokens 200 --output-tokens 50:150 --json run.json
    """
    from servery.bench.run import run as measure

    return measure(_bench_options(options, _load_options(options)))


def trace(options: argparse.Namespace) -> int:
    """Replay recorded traffic: when requests came, how long they were, what they shared.

    TRACE is a file (Azure LLM inference 2023 or 2024, BurstGPT, Mooncake; .gz too), or a kind of synthetic traffic with
    the statistics of these: chat, code or conversation. Prompts are random words of the recorded lengths; where the
    trace names blocks of content, prompts share what they shared.

    Example:
      servery bench trace chat --requests 200 --rate 2 --scale-tokens 0.2
      servery bench trace AzureLLMInferenceTrace_conv.csv --requests 1000 --slo ttft:1s,tpot:100ms --html conv.html
    """
    from servery.bench.run import run as measure

    load = LoadOptions(
        requests=options.requests,
        warmup=options.warmup,
        arrivals=Arrivals(options.rate) if options.rate else None,
        is_replay=True,
    )
    return measure(_bench_options(options, load))


def goodput(options: argparse.Namespace) -> int:
    """Search the highest rate at which the SLO is kept, one run per rate.

    A rate counts as kept when the lower 95 % bound of the share of good requests is at or above --attainment and
    requests did not pile up. The rate is doubled from --start until it is not kept, then the bracket is halved until
    it is within --precision. A run that is lost is ended early. Errors and refusals are misses.

    Example:
      servery bench goodput --slo ttft:200ms,tpot:50ms --attainment 95% --requests 200
      servery bench goodput --slo mlperf-llama3.1-8b-interactive --cost-per-hour 2.35 --html goodput.html
    """
    from servery.bench.capacity import CapacitySearch
    from servery.bench.goodput import run as search

    load = LoadOptions(requests=options.requests, warmup=options.warmup, arrivals=_arrivals(options, options.start))
    bracket = CapacitySearch(options.start, precision=options.precision)
    return search(_bench_options(options, load), bracket)


def sweep(options: argparse.Namespace) -> int:
    """Measure the same work at several rates, or with several numbers of clients.

    Example:
      servery bench sweep --rates 1,2,4,8 --slo chat --html sweep.html
      servery bench sweep --clients 1,4,16,64 --json sweep.json
    """
    from servery.bench.sweep import at_rate, with_clients
    from servery.bench.sweep import run as measure

    load = LoadOptions(requests=options.requests, warmup=options.warmup, concurrency=1)
    base = _bench_options(options, load)
    if options.clients is not None:
        _require_no_arrivals(options)
        return measure([with_clients(base, one, index) for index, one in enumerate(options.clients)])
    return measure([at_rate(base, _arrivals(options, one), index) for index, one in enumerate(options.rates)])


def compare(options: argparse.Namespace) -> int:
    """Compare two servers or models, A and B, with the same requests at the same times, in turn.

    Runs go A B, B A, A B; every figure has the ratio B / A with an interval from a paired bootstrap over
    neighbouring requests (all of them hold together with 95 %), and a verdict: better, worse, same within --margin, or inconclusive. The exit code is 1 when B is worse.

    Example:
      servery bench compare --model amuse --model-b amuse-draft --rate 4
      servery bench compare --url http://127.0.0.1:8000 --url-b http://127.0.0.1:9000 --concurrency 4 --repeats 5
    """
    from servery.bench.comparison import run as measure

    a = _bench_options(options, _load_options(options))
    key = options.client_key(options.api_key_b or options.api_key)
    target = TargetOptions(
        url=options.url_b or options.url, model=options.model_b, api_key=key, timeout_s=options.timeout
    )
    b = BenchOptions(target=target, work=a.work, load=a.load, slo=a.slo, measures_bandwidth=False)
    return measure(a, b, options.repeats, options.margin)


def report(options: argparse.Namespace) -> int:
    """Make the page of measurements that were written with --json: of one run, or of several in one page.

    Example:
      servery bench report run.json --html run.html
      servery bench report --schema
    """
    from servery.bench.saved import run as render

    return render(options.files, options.html, wants_schema=options.schema)


def add_verbs(add_verb: Add, add_client: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the verbs of `servery bench` but `roofline`, each with the options of every client."""
    measuring = {verb: add_verb(verb) for verb in (run, trace, goodput, sweep, compare)}
    for parser in measuring.values():
        add_client(parser)
        _add_measuring(parser)
    for verb in (run, goodput, sweep, compare):
        _add_lengths(measuring[verb])
    for verb in (run, goodput, sweep):
        _add_turns(measuring[verb])
    for verb in (goodput, sweep):
        _add_price(measuring[verb])
    _add_load(measuring[run])
    _add_trace(measuring[trace])
    _add_search(measuring[goodput])
    _add_steps(measuring[sweep])
    _add_pair(measuring[compare])
    _add_report(add_verb(report))


def _add_measuring(verb: argparse.ArgumentParser) -> None:
    verb.set_defaults(temperature=0.0, seed=0, concurrency=None, rate=None, arrivals="poisson", trace=None)
    verb.set_defaults(prompt_tokens=_PROMPT_TOKENS, output_tokens=_OUTPUT_TOKENS, api_price=None)
    add = verb.add_argument
    add("--requests", type=at_least(1), default=200, metavar="M", help="requests of a run")
    add("--warmup", type=at_least(0), default=8, metavar="N", help="requests before, not counted")
    add("--shared-prefix-tokens", type=at_least(0), default=0, metavar="N", help="tokens that all prompts begin with")
    add("--stop-at-eos", action="store_true", help="let answers end themselves; the length is then the most")
    add("--slo", metavar="SLO", help=f"what users were promised: {_SLO}")
    add("--attainment", type=_attainment, metavar="SHARE", help="share of requests that must keep it, such as 99%%")
    add("--cost-per-hour", type=between(0, 1e9), metavar="$", help="of the server, for the cost per good token")
    add("--no-bandwidth", dest="bandwidth", action="store_false", help="do not measure this machine's bandwidth")
    add("--json", type=file_to_write, metavar="FILE", help="write everything measured; - for stdout, not a table")
    add("--html", type=page_to_write, metavar="FILE", help="write one page with plots")


def _add_lengths(verb: argparse.ArgumentParser) -> None:
    """Of work that is made up; a trace has its own."""
    add, lengths = verb.add_argument, "N, LOW:HIGH drawn evenly, or lognormal:MEAN,P99"
    add("--prompt-tokens", type=_lengths, default=_PROMPT_TOKENS, metavar="X", help=f"length of a prompt: {lengths}")
    add("--output-tokens", type=_lengths, default=_OUTPUT_TOKENS, metavar="Y", help=f"length of an answer: {lengths}")


def _add_price(verb: argparse.ArgumentParser) -> None:
    help_text = "what a provider asks for a million output tokens, drawn beside the cost per good token"
    verb.add_argument("--api-price", type=between(0, 1e6), metavar="$", help=help_text)


def _add_turns(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("--turns", type=_lengths, metavar="N", help="conversations of so many turns, each with the answers before it")
    add("--turn-tokens", type=_lengths, metavar="X", help="length of a user's further message (default 50)")
    add("--think-time", type=between(0, 3600), metavar="S", help="seconds from an answer to the next turn, on average")


def _add_load(verb: argparse.ArgumentParser) -> None:
    loop = verb.add_mutually_exclusive_group()
    loop.add_argument("--rate", type=_rate, metavar="R", help="open loop: requests a second on average")
    loop.add_argument("--concurrency", type=at_least(1), metavar="N", help="closed loop: clients (default 8)")
    _add_arrivals(verb)


def _add_arrivals(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--arrivals", type=_form, metavar="FORM", help="poisson (default), constant, or gamma:CV for bursts"
    )


def _add_trace(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("trace", metavar="TRACE", help="a file, or chat, code or conversation")
    verb.add_argument("--rate", type=_rate, metavar="R", help="stretch its times to so many requests a second")
    verb.add_argument(
        "--scale-tokens", type=between(0.0001, 100), default=1.0, metavar="F", help="factor on all its lengths"
    )


def _add_search(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--start", type=_rate, default=1.0, metavar="R", help="first rate, requests a second")
    verb.add_argument(
        "--precision", type=between(0.01, 1), default=0.05, metavar="P", help="where to stop: 0.05 is 5 %%"
    )
    verb.set_defaults(requests=400, slo="chat")
    _add_arrivals(verb)


def _add_steps(verb: argparse.ArgumentParser) -> None:
    steps = verb.add_mutually_exclusive_group(required=True)
    steps.add_argument("--rates", type=_rates, metavar="R,R,...", help="open loops: requests a second")
    steps.add_argument("--clients", type=_counts, metavar="N,N,...", help="closed loops: clients at the same time")
    _add_arrivals(verb)


def _add_pair(verb: argparse.ArgumentParser) -> None:
    _add_load(verb)
    add = verb.add_argument
    add("--url-b", metavar="URL", help="the server of B; else that of A")
    add("--model-b", metavar="NAME", help="the model of B; else the first that its server lists")
    add("--api-key-b", metavar="KEY", help="the key of B; else that of A")
    add("--repeats", type=at_least(3), default=3, metavar="N", help="runs of each")
    add(
        "--margin",
        type=between(0, 1),
        default=0.05,
        metavar="M",
        help="a difference that does not matter: 0.05 is 5 %%",
    )


def _add_report(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("files", nargs="*", metavar="FILE", help="what --json wrote")
    verb.add_argument("--html", type=page_to_write, metavar="FILE", help="the page to write")
    verb.add_argument("--schema", action="store_true", help="print the JSON Schema of these files")


def _bench_options(options: argparse.Namespace, load: LoadOptions) -> BenchOptions:
    if options.json is not None and options.json == options.html:
        raise UsageError(f"--json and --html would both write {str(options.json)!r}; name two files")
    key = options.client_key(options.api_key)
    return BenchOptions(
        target=TargetOptions(url=options.url, model=options.model, api_key=key, timeout_s=options.timeout),
        work=WorkOptions(
            prompt_tokens=options.prompt_tokens,
            output_tokens=options.output_tokens,
            shared_prefix_tokens=options.shared_prefix_tokens,
            trace=options.trace,
            scale_tokens=getattr(options, "scale_tokens", 1.0),
            stop_at_eos=options.stop_at_eos,
            temperature=options.temperature,
            seed=options.seed,
            **_turns(options),
        ),
        load=load,
        slo=_slo(options),
        dollars_per_hour=options.cost_per_hour,
        api_price=options.api_price,
        measures_bandwidth=options.bandwidth,
        json_path=options.json,
        html_path=options.html,
    )


def _turns(options: argparse.Namespace) -> dict[str, Any]:
    """What was said of conversations; raises `UsageError` for what has no use without."""
    turns = getattr(options, "turns", None)
    given = {"turn_tokens": getattr(options, "turn_tokens", None), "think_s": getattr(options, "think_time", None)}
    said = {name: value for name, value in given.items() if value is not None}
    if turns is None and said:
        raise UsageError("--turn-tokens and --think-time are of conversations; give their --turns, too")
    return said if turns is None else {"turns": turns, **said}


def _load_options(options: argparse.Namespace) -> LoadOptions:
    if options.rate is not None:
        return LoadOptions(requests=options.requests, warmup=options.warmup, arrivals=_arrivals(options, options.rate))
    _require_no_arrivals(options)
    return LoadOptions(requests=options.requests, warmup=options.warmup, concurrency=options.concurrency or 8)


def _require_no_arrivals(options: argparse.Namespace) -> None:
    """A closed loop has none."""
    if options.arrivals != "poisson":
        raise UsageError("--arrivals says how requests of an open loop come; give its rate, too")


def _arrivals(options: argparse.Namespace, rate: float) -> Arrivals:
    return Arrivals.parse(options.arrivals, rate)


def _slo(options: argparse.Namespace) -> BenchSlo | None:
    if options.api_price is not None and options.cost_per_hour is None:
        raise UsageError("--api-price is drawn beside what the server costs; give its --cost-per-hour, too")
    if options.slo is None:
        if options.attainment is not None or options.cost_per_hour is not None:
            raise UsageError("--attainment and --cost-per-hour judge by an SLO; give one with --slo")
        return None
    try:
        return BenchSlo.parse(options.slo, options.attainment)
    except ValueError as error:
        raise UsageError(f"--slo: {error}") from None


class UsageError(Exception):
    """Options that contradict each other, or a value that cannot be read."""


def _lengths(text: str) -> Lengths:
    try:
        return parse_lengths(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _attainment(text: str) -> float:
    try:
        return parse_attainment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _form(text: str) -> str:
    try:
        Arrivals.parse(text, 1.0)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate; write requests a second, such as 0.5 or 20")
    return rate


def _rates(text: str) -> list[float]:
    return [_rate(part) for part in text.split(",")]


def _counts(text: str) -> list[int]:
    return [at_least(1)(part) for part in text.split(",")]
