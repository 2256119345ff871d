"""What the page shows is what the server counts."""

import re
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.conftest import VIEWER, Opened, Served, complained, until
from tests.e2e.server_process import eventually


def row(page: Page, panel: str, name: str) -> list[str]:
    """The texts of a table's row whose head begins with a name."""
    found = page.locator(f"#{panel} tbody tr").filter(has=page.locator("th", has_text=re.compile(rf"^{name}")))
    expect(found).to_have_count(1)
    texts: list[str] = found.locator("th, td").all_inner_texts()
    return texts


def tile(page: Page, name: str) -> str:
    return page.locator("#tiles .tile", has_text=name).inner_text()


def drawn(page: Page, plot: str) -> list[Any]:
    """What a plot has been given: times, and the values of each line."""
    found: list[Any] = page.evaluate(f"servery.panels.plots.{plot}.plot.data")
    return found


def test_every_panel_shows_what_the_metrics_say(served: Served, opened: Opened) -> None:
    page = opened()
    expect(page.locator("#status")).to_have_text("live")
    until(page, "servery.store.now.keys.length > 0 && servery.store.steps.size > 0")
    requests = served.metric("exchanges_total")
    good, generated = served.metric("slo_good_total"), served.metric("generation_tokens_total")
    prompt, cached = served.metric("prompt_tokens_total"), served.metric("prompt_tokens_cached_total")
    # The plots: what is under their lines. What is drawn is over; of what is not nothing is claimed.
    told = served.snapshot()
    step_s = told["step_s"]

    def under_the_lines() -> tuple[int, int]:
        _, finished, kept, _ = drawn(page, "goodput")
        assert finished[-1] is None
        return round(sum(finished[:-1]) * step_s), round(sum(kept[:-1]) * step_s)

    eventually(lambda: under_the_lines() == (requests, good), "the step of the last exchange is over")
    # The figures.
    assert f"{generated:.0f} in " in tile(page, "Tokens generated")
    assert f"{100 * cached / prompt:.1f} %" in tile(page, "Prefix hits")
    assert f"{cached:.0f} of {prompt:.0f} tokens" in tile(page, "Prefix hits")
    assert "$0.85/h" in tile(page, "Cost")
    judged = good + served.metric("slo_miss_total")
    assert f"{100 * good / judged:g} % met" in tile(page, "Goodput")
    for name, metric in (("ttft", "time_to_first_token_seconds"), ("tpot", "request_time_per_output_token_seconds")):
        highest = max(value for value in drawn(page, name)[3] if value is not None)
        assert served.metric(f"{metric}_count") == 10
        assert 0 < highest <= 1000 * served.metric(f"{metric}_sum")
        percentiles = told["summaries"][""][f"{name}_ms"]
        assert percentiles == sorted(percentiles)
        assert percentiles[2] == highest
    assert sum(drawn(page, "tokens")[1][:-1]) > 0
    # The engine.
    blocks = {state: served.metric("kv_blocks", state=state) for state in ("held", "cached", "free")}
    label = page.locator(".engine canvas").first.get_attribute("aria-label")
    assert (
        label
        == f"KV cache of here: {blocks['held']:.0f} of {sum(blocks.values()):.0f} blocks held, {blocks['cached']:.0f} cached"
    )
    hits = served.metric("prefix_cache_hits_total") / served.metric("prefix_cache_queries_total")
    assert page.locator(".engine .note").is_visible() is not told["engines"]["here"]["is_measured"]
    assert f"Prefix hits since start\n{100 * hits:.1f} %" in page.locator(".engine .figures").inner_text()
    # The tables.
    here, gone = row(page, "deployments", "here"), row(page, "deployments", "gone")
    sent = sum(served.metric("exchanges_total", deployment=name) for name in ("here", "gone"))
    assert here[1:5] == ["ready", f"{100 * 10 / sent:.1f} %", "10", "0"]
    assert gone[1].startswith("breaker open, next try in ")
    assert served.metric("deployment_breaker_open", deployment="gone") == 1
    assert gone[3] == f"{served.metric('exchanges_total', deployment='gone'):.0f}"
    assert row(page, "keys", "reports") == [
        "reports\nlab",
        f"{requests:.0f}",
        f"{prompt + generated:.0f}",
        "$0 of $2.00",
        "$0",
    ]
    kinds = {
        each.locator("th").inner_text(): int(each.locator("td").first.inner_text())
        for each in page.locator("#errors tbody tr").all()
    }
    assert sum(kinds.values()) == requests - served.metric("exchanges_total", outcome="completed")
    assert page.locator("#exchanges tbody tr").count() == requests
    assert page.locator("#alerts").inner_text().startswith("gone: breaker open")


def test_a_moment_with_nothing_before_and_after_it_is_seen_in_a_plot(opened: Opened) -> None:
    page = opened()
    until(page, "servery.panels.plots.ttft.plot")
    drawn_pixels = page.evaluate(
        """async () => {
          const { plot } = servery.panels.plots.ttft;
          const alone = (column, line) => column.map((time, at) => (line === 0 ? time : at === 70 ? 10 * line : null));
          plot.setData(plot.data.map(alone));
          await null;
          const { width, height } = plot.ctx.canvas;
          const { data } = plot.ctx.getImageData(0, 0, width, height);
          return ["--one", "--two", "--three"].map((name) => {
            const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
            const wanted = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
            let count = 0;
            for (let at = 0; at < data.length; at += 4) {
              if (data[at + 3] > 128 && wanted.every((value, part) => Math.abs(value - data[at + part]) < 32)) count += 1;
            }
            return count;
          });
        }"""
    )
    assert min(drawn_pixels) >= 9, drawn_pixels


def test_steps_are_drawn_as_they_are_run_and_exchanges_as_they_end(served: Served, opened: Opened) -> None:
    page = opened(VIEWER)
    until(page, "servery.store.now.engines.here.seen")
    looked = page.evaluate("servery.store.now.at_s")
    until(page, "looked => servery.store.now.at_s > looked + 2", arg=looked)  # steps of before are all there
    before = served.metric("engine_step_tokens_total")
    drawn_before = page.evaluate("servery.store.steps.get('here').reduce((sum, s) => sum + s[0] + s[1] + s[2], 0)")
    assert served.chat(max_tokens=20, words="a new one") == 200
    until(page, "servery.store.exchanges[0].generated_tokens === 20")
    computed = served.metric("engine_step_tokens_total") - before
    until(
        page,
        "want => servery.store.steps.get('here').reduce((sum, s) => sum + s[0] + s[1] + s[2], 0) === want",
        arg=drawn_before + computed,
    )
    newest = page.locator("#exchanges tbody tr").first
    newest.locator("button").click()
    expect(page.locator("#exchanges .detail")).to_contain_text("place=")
    widths = newest.locator(".line span").evaluate_all("parts => parts.map((part) => parseFloat(part.style.width))")
    assert 0 < sum(widths) <= 100.01


def test_one_model_is_shown_alone_and_the_past_by_hours(served: Served, opened: Opened) -> None:
    page = opened()
    page.select_option("#model", "lost")
    expect(page.locator("#deployments tbody tr")).to_have_count(1)
    expect(page.locator(".engine")).to_have_count(0)
    page.focus("input[value=live]")
    page.keyboard.press("ArrowRight")
    failed = served.metric("exchanges_total", deployment="gone")
    expect(page.locator("#deployments tbody td").nth(2)).to_have_text(f"{failed:.0f}")
    expect(page.locator("#foot")).to_contain_text("History is kept in the ledger.")
    page.select_option("#model", "")
    page.check("input[value='1h']", force=True)
    expect(page.locator("#deployments tbody tr")).to_have_count(2)
    cost = row(page, "deployments", "here")[6]  # which is paid for by the hour: for the minutes that it has been there
    assert 0 < float(cost.removeprefix("$")) < 0.85
    page.check("input[value='7d']", force=True)
    expect(page.locator("#deployments tbody tr")).to_have_count(2)


def test_two_models_are_asked_side_by_side(served: Served, opened: Opened) -> None:
    page = opened(at="#playground")
    page.select_option("select[aria-label='Model A']", "chat")
    page.select_option("select[aria-label='Model B']", "chat")
    page.fill("#most", "6")
    page.fill("#prompt", "Tell me a story")
    page.keyboard.press("Control+Enter")
    took = page.locator(".took")
    expect(took).to_have_count(2)
    for side in (0, 1):
        expect(took.nth(side)).to_have_text(
            re.compile(r"first token .+ · in all .+ · .+ tokens/s · \d+ → 6 tokens · paid by the hour · here")
        )
        assert page.locator(".words").nth(side).inner_text().strip()
    page.select_option("select[aria-label='Model B']", "")
    page.select_option("select[aria-label='Model A']", "lost")
    page.fill("#prompt", "Anybody?")
    page.click("form.ask button[type=submit]")
    expect(page.locator(".took.bad")).to_have_count(1)
    # The browser itself tells of a status above 400.
    complained(page, opened.complaints, "Failed to load resource")  # type: ignore[attr-defined]
