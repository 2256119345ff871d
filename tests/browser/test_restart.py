"""A server that is started again."""

from playwright.sync_api import expect

from tests.browser.conftest import Opened, Served, until


def test_it_survives_a_restart_with_what_was_before(served: Served, opened: Opened) -> None:
    page = opened()
    served.settle()
    counted = served.metric("exchanges_total")
    until(page, "want => servery.store.now.summaries[''].exchanges === want", arg=counted)
    before = page.evaluate("servery.store.now.summaries['']")
    served.kill()
    expect(page.locator("#status")).to_have_text("reconnecting")
    served.start()
    expect(page.locator("#status")).to_have_text("live")
    until(page, "want => servery.store.now.summaries[''].exchanges === want", arg=before["exchanges"])
    after = page.evaluate("servery.store.now.summaries['']")
    assert (after["ttft_ms"], after["generated_tokens"], after["errors"]) == (
        before["ttft_ms"], before["generated_tokens"], before["errors"],
    )  # fmt: skip
    assert page.locator("#exchanges tbody tr").count() > 0
    complaints = opened.complaints  # type: ignore[attr-defined]
    assert [each for each in complaints if "ERR_" not in each] == []
    complaints.clear()  # the browser itself tells that nobody was there
