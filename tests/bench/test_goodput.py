"""The search finds what a server with a known capacity can do, and its pages and files say the same."""

import asyncio
from dataclasses import replace
from io import StringIO
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from servery.bench.arrivals import Arrivals
from servery.bench.capacity import CapacitySearch, Verdict
from servery.bench.comparison import CompareReport, overall
from servery.bench.comparison import measure as compare
from servery.bench.comparison import show as show_comparison
from servery.bench.comparison import write as write_comparison
from servery.bench.errors import ClientError
from servery.bench.goodput import CapacityReport, TooFewRequests, conclusion, measure, show
from servery.bench.options import BenchOptions, LoadOptions, TargetOptions, WorkOptions
from servery.bench.page import write_page
from servery.bench.paired import Comparison, Outcome
from servery.bench.report import as_json
from servery.bench.saved import BadReport, read, run, schema
from servery.bench.slo import BenchSlo
from servery.bench.span import Span
from servery.bench.sweep import at_rate, with_clients
from servery.bench.sweep import measure as sweep
from tests.scripted_server import ScriptedServer, json_answer, scripted, stream

CHAT = "/v1/chat/completions"
SCRIPT = {"/v1/models": [json_answer({"data": [{"id": "m"}]})], CHAT: [stream("a", "b", prompt_tokens=9)]}


def options(server: ScriptedServer, *, slo: BenchSlo | None, requests: int = 30) -> BenchOptions:
    return BenchOptions(
        target=TargetOptions(url=server.url),
        work=WorkOptions(prompt_tokens=Span(8, 8), output_tokens=Span(2, 2)),
        load=LoadOptions(requests=requests, warmup=0, arrivals=Arrivals(400.0, 0.0)),
        slo=slo,
        dollars_per_hour=1.0,
        measures_bandwidth=False,
    )


def searched(limit: str, rates: tuple[float, int], requests: int = 30) -> CapacityReport:
    async def go() -> CapacityReport:
        async with scripted(SCRIPT) as server:
            start, trials = rates
            search = CapacitySearch(start, most_trials=trials)
            return await measure(options(server, slo=BenchSlo.parse(limit, 0.9), requests=requests), search)

    return asyncio.run(go())


def test_a_fast_server_keeps_a_wide_slo_at_every_rate_tried() -> None:
    found = searched("ttft:50m", (100.0, 2))
    assert ([trial.verdict for trial in found.trials], found.broken_rate) == ([Verdict.KEPT] * 2, None)
    assert found.capacity == max(trial.rate for trial in found.trials)
    assert "the capacity may be above" in conclusion(found)
    assert [one.samples[0]["due_s"] for one in found.runs] == pytest.approx([0.01, 0.005])


def test_a_rate_that_is_lost_is_ended_early_and_called_broken() -> None:
    """No answer keeps a TTFT of a microsecond: after the misses that no rest could make good the run is over."""
    found = searched("ttft:1us", (50.0, 1), requests=400)
    [trial] = found.trials
    assert (trial.verdict, found.capacity) == (Verdict.BROKEN, None)
    assert trial.attainment.n < 200
    assert conclusion(found) == "no rate was shown to keep the SLO; the lowest tried was 50/s"


def test_too_few_requests_to_show_anything_are_refused_with_the_number_needed() -> None:
    with pytest.raises(TooFewRequests, match="ask for at least 25"):
        searched("ttft:1s", (1.0, 1), requests=24)


def test_without_an_slo_there_is_nothing_to_search() -> None:
    async def go() -> None:
        async with scripted(SCRIPT) as server:
            await measure(options(server, slo=None), CapacitySearch(1.0))

    with pytest.raises(ClientError, match="--slo"):
        asyncio.run(go())


def test_what_was_written_is_read_again_and_its_page_says_the_same(tmp_path: Path) -> None:
    found = searched("ttft:50m", (100.0, 2))
    written = tmp_path / "goodput.json"
    written.write_bytes(as_json(found))
    assert orjson.loads(as_json(read(written))) == orjson.loads(as_json(found))
    assert run([str(written)], tmp_path / "page.html", wants_schema=False) == 0
    write_page(tmp_path / "same.html", found.runs, conclusion=conclusion(found), capacity=found.capacity)
    page = (tmp_path / "page.html").read_text()
    assert page == (tmp_path / "same.html").read_text()
    assert conclusion(found) in page
    assert "http://" not in page.replace(found.runs[0].options["target"]["url"], "")
    for title in ("Throughput and goodput", "Share that kept the SLO", "Time to first token", "Cost"):
        assert f"<figcaption>{title}</figcaption>" in page
    shown = StringIO()
    show(found, Console(file=shown, width=120))
    assert conclusion(found)[:60] in shown.getvalue()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "schema is none of"),
        ("[]", "schema is none of"),
        ("nothing", "none of"),
        ('{"schema": "servery.bench/2"}', "not what"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BadReport, match=words):
        read(tmp_path / "x.json")
    with pytest.raises(BadReport, match="Name at least one"):
        run([], None, wants_schema=False)


def test_the_schema_names_every_form() -> None:
    forms = {part["$ref"] for part in schema()["anyOf"]}
    assert forms == {f"#/$defs/{name}" for name in ("Report", "SweepReport", "CapacityReport", "CompareReport")}


def test_a_sweep_has_one_run_per_step_with_prompts_of_its_own() -> None:
    async def go() -> list[list[str]]:
        async with scripted(SCRIPT) as server:
            base = options(server, slo=None, requests=5)
            found = await sweep([at_rate(base, Arrivals(200.0), 0), with_clients(base, 2, 1)])
            assert [(one.offered_rate, one.clients) for one in found.runs] == [(200.0, None), (None, 2)]
            prompts = [body["messages"][0]["content"] for body in server.bodies(CHAT)[1:]]
            return [prompts[:5], prompts[5:]]

    first, second = asyncio.run(go())
    assert len(first) == len(second) == 5
    assert not set(first) & set(second)


def _prompts(server: ScriptedServer, first: int) -> list[str]:
    """The prompts of one run, in an order that does not depend on which connection was quicker."""
    return sorted(body["messages"][0]["content"] for body in server.bodies(CHAT)[first : first + 30])


def test_a_comparison_asks_both_the_same_in_turn(tmp_path: Path) -> None:
    async def go() -> None:
        async with scripted(SCRIPT) as a, scripted(SCRIPT) as b:
            slo = BenchSlo.parse("ttft:50m", 0.9)
            found = await compare(options(a, slo=slo), options(b, slo=slo), repeats=3, margin=0.05)
            runs = [[_prompts(server, 1 + 30 * run) for run in range(3)] for server in (a, b)]
            told = [[[prompt.partition(" ") for prompt in run] for run in of] for of in runs]
            assert [[rest for _, _, rest in run] for run in told[0]] == [
                [rest for _, _, rest in run] for run in told[1]
            ]
            assert [{first for run in of for first, _, _ in run} for of in told] == [{"north"}, {"south"}]
            assert len({prompt for run in runs[0] for prompt in run}) > 80
            # A client that is kept waiting reads such a short answer at once; then there is no time per token.
            assert set(found.figures) | {"TPOT p50"} == {"TTFT p50", "TPOT p50", "E2E p50", "answered", "kept the SLO"}
            assert found.figures["kept the SLO"].outcome is found.figures["answered"].outcome is Outcome.SAME
            shown = StringIO()
            show_comparison(found, Console(file=shown, width=120))
            assert f"B is {found.verdict.value} (margin 5%)" in shown.getvalue()
            _check_its_page(found, tmp_path)

    asyncio.run(go())


REFUSED = json_answer({"error": {"message": "queue full"}}, 429)


@pytest.mark.parametrize(
    ("answers", "requests", "verdict", "has_latencies"),
    [
        ([stream("a", "b"), *([REFUSED, stream("a", "b")] * 60)], 30, Outcome.WORSE, True),
        ([stream("a", "b"), REFUSED], 30, Outcome.WORSE, False),
        ([stream("a", "b")], 6, Outcome.INCONCLUSIVE, False),
    ],
)
def test_who_refuses_is_not_the_better_one_and_too_few_show_nothing(
    answers: list[list[bytes]], requests: int, verdict: Outcome, has_latencies: bool
) -> None:
    async def go() -> CompareReport:
        async with scripted(SCRIPT) as a, scripted({**SCRIPT, CHAT: answers}) as b:
            sides = [replace(options(one, slo=None, requests=requests), dollars_per_hour=None) for one in (a, b)]
            return await compare(*sides, repeats=3, margin=0.05)

    found = asyncio.run(go())
    assert (found.verdict, "TTFT p50" in found.figures) == (verdict, has_latencies)
    assert found.figures["answered"].a == 1.0


def test_an_invalid_run_shows_no_rate_to_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servery.bench.run.faults", lambda *_: ["this client sent requests late"])
    found = searched("ttft:50m", (100.0, 2))
    assert [trial.verdict for trial in found.trials] == [Verdict.UNCLEAR]
    assert (found.capacity, found.is_valid) == (None, False)


def _check_its_page(found: CompareReport, folder: Path) -> None:
    """It says the verdict and draws both sides; `report` makes the same of the JSON."""
    write_comparison(found, folder / "compare.html")
    page = (folder / "compare.html").read_text(encoding="utf-8")
    (folder / "compare.json").write_bytes(as_json(found))
    assert run([str(folder / "compare.json")], folder / "again.html", wants_schema=False) == 0
    assert (folder / "again.html").read_text(encoding="utf-8") == page
    assert f'<p class="conclusion">B is {found.verdict.value} (margin 5%); a request of B' in page
    assert page.count('class="interval"') == len(found.figures)
    assert page.count("<figure>") >= 2  # what takes no time at all has no place on a logarithmic axis
    assert "http" not in page.replace(found.a[0].options["target"]["url"], "").replace(
        found.b[0].options["target"]["url"], ""
    )


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([Outcome.SAME, Outcome.SAME], Outcome.SAME),
        ([Outcome.SAME, Outcome.BETTER], Outcome.BETTER),
        ([Outcome.BETTER, Outcome.INCONCLUSIVE], Outcome.INCONCLUSIVE),
        ([Outcome.BETTER, Outcome.WORSE, Outcome.INCONCLUSIVE], Outcome.WORSE),
    ],
)
def test_one_word_for_all_figures_never_hides_a_loss(outcomes: list[Outcome], verdict: Outcome) -> None:
    assert overall([Comparison(1, 1, 1, 1, 1, outcome) for outcome in outcomes]) is verdict
