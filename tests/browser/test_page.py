"""The page itself: who may see it, with which hands and eyes, for how long."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import ADMIN, VIEWER, Opened, Served, complained, until

_NAMED = {
    "button", "link", "textbox", "combobox", "radio", "spinbutton", "image", "img", "table", "region", "log",
    "navigation", "group", "form",
}  # fmt: skip


def unnamed(page: Page) -> list[str]:
    """What the browser tells an assistive technology of without a name, though it needs one."""
    session = page.context.new_cdp_session(page)
    nodes: list[dict[str, Any]] = session.send("Accessibility.getFullAXTree")["nodes"]
    told = [node for node in nodes if not node.get("ignored")]
    return [
        str(node["role"]["value"])
        for node in told
        if node["role"]["value"] in _NAMED and not node.get("name", {}).get("value")
    ]


def overflow(page: Page) -> int:
    found: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return found


def test_a_wrong_key_is_told_so_and_the_right_one_is_remembered_until_logged_out(
    served: Served, opened: Opened
) -> None:
    page = opened(None)
    expect(page.locator("#key")).to_be_focused()
    assert unnamed(page) == []
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#login-error")).to_have_text("This is neither an admin key nor a viewer key of this server.")
    complained(page, opened.complaints, "401")  # type: ignore[attr-defined]
    page.fill("#key", ADMIN)
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("live")
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/dashboard")
    stored = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.documentElement.outerHTML])"
    )
    assert ADMIN not in stored
    page.reload()
    expect(page.locator("#status")).to_have_text("live")
    page.click("#logout")
    expect(page.locator("#login-why")).to_have_text("You are logged out.")
    assert page.context.cookies() == []


def test_who_may_only_look_is_offered_nothing_else(served: Served, opened: Opened) -> None:
    page = opened(VIEWER, at="#playground")
    expect(page.locator("#overview")).to_be_visible()
    expect(page.locator("#to-playground")).to_be_hidden()
    expect(page.locator("#playground")).to_be_hidden()
    status = page.evaluate(
        "fetch('dashboard/api/chat', {method: 'POST', body: '{}', headers: {'content-type': 'application/json', "
        "'x-servery-dashboard': '1'}}).then((answer) => answer.status)"
    )
    assert status == 403
    complained(page, opened.complaints, "403")  # type: ignore[attr-defined]


@pytest.mark.parametrize("at", ["#overview", "#playground"])
def test_everything_has_a_name_and_fits_a_phone(served: Served, opened: Opened, at: str) -> None:
    page = opened(at=at, width=375, height=700)
    expect(page.locator(f"{at}")).to_be_visible()
    until(page, "servery.store.now.number > 1")
    assert overflow(page) <= 0
    assert unnamed(page) == []
    small = page.evaluate(
        "[...document.querySelectorAll('#top button, #top a, #top select, .segments label, form.ask button')]"
        ".filter((each) => each.offsetParent).map((each) => each.getBoundingClientRect().height).filter((high) => high < 32)"
    )
    assert small == []
    if at == "#overview":
        panels = page.locator("#overview section.panel")
        assert all(panel.bounding_box()["width"] <= 375 for panel in panels.all())  # type: ignore[index]


def test_it_is_used_with_the_keyboard_alone(served: Served, opened: Opened) -> None:
    page = opened()
    reached = []
    page.focus(".skip")
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        ring = page.evaluate(
            "(() => { const on = document.activeElement, of = on.type === 'radio' ? on.nextElementSibling : on;"
            " return getComputedStyle(of).outlineStyle; })()"
        )
        assert ring == "solid", reached
    assert reached[:2] == ["Overview", "to-playground"]
    assert {"model", "theme", "logout"} <= set(reached)


def test_light_and_dark_follow_the_system_or_the_switch(served: Served, opened: Opened) -> None:
    page = opened(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.click("#theme")
    expect(page.locator("#theme")).to_have_text("Theme: light")
    light = page.evaluate(paper)
    assert dark == "rgb(16, 20, 24)"
    assert light == "rgb(246, 247, 248)"
    page.reload()
    assert page.evaluate(paper) == light
    until(page, "servery.store.now")


def test_a_page_that_is_left_open_holds_no_more_after_hours_than_after_minutes(served: Served, opened: Opened) -> None:
    """Four hours of ticks, with ten exchanges each, in a second."""
    page = opened()
    until(page, "servery.store.now.keys.length && servery.store.now.engines.here.seen")
    sizes = page.evaluate(
        """() => {
            const { store, taken } = servery, first = structuredClone(store.now);
            const at = Object.fromEntries(store.point.map((name, number) => [name, number]));
            const size = () => ({
                nodes: document.getElementsByTagName("*").length,
                exchanges: store.exchanges.length,
                steps: [...store.steps.values()].map((each) => each.length),
                slices: [...store.live.values()].map((each) => each.size),
                open: servery.panels.exchanges.open.size,
                drawn: servery.panels.plots.ttft.plot.data[0].length,
            });
            const run = (from, to) => {
                for (let number = from; number < to; number += 1) {
                    const at_s = first.at_s + number;
                    const slice = store.point.map(() => 1);
                    slice[at.at_s] = 2 * Math.floor(at_s / 2);
                    const all = { ...first.summaries[""], errors: { [`error ${number % 500}`]: 3 } };
                    const seen = { ...first.engines.here.seen, steps: Array.from({ length: 100 }, () => [4, 20, 1, 5, 2.5]) };
                    const exchanges = Array.from({ length: 10 }, (_, k) => ({
                        id: `${number}-${k}`, request_id: "r", at_s, api: "chat", key: "", model: "chat", deployment: "here",
                        tier: "embedded", is_stream: true, prompt_tokens: 1, cached_tokens: 0, generated_tokens: 2, queue_ms: 1,
                        ttft_ms: 2, tpot_ms: 1, e2e_ms: 5, is_slo_met: true, cost_nanousd: 1, attempts: 1, route: "x",
                        outcome: "completed", status: 200, failure: null,
                    }));
                    const tick = {
                        ...first, at_s, exchanges, points: { "": [slice], chat: [slice], lost: [] },
                        summaries: { ...first.summaries, "": all }, engines: { here: { ...first.engines.here, seen } },
                    };
                    if (number % 200) store.take("tick", tick);
                    else taken("tick", tick); // drawing takes longer than taking in
                }
            };
            run(1, 800);
            document.querySelector("#exchanges button").click();
            run(800, 801);
            const then = size();
            run(801, 14400);
            taken("tick", { ...structuredClone(store.now), exchanges: [], points: store.now.points });
            return [then, size()];
        }"""
    )
    then, now = sizes
    assert now["exchanges"] == then["exchanges"] == 50
    assert now["steps"] == then["steps"] == [240]
    assert max(now["slices"]) <= 150
    assert now["drawn"] == then["drawn"] == 150
    assert now["open"] == 0
    assert now["nodes"] <= then["nodes"]
