"""The page in a real browser: by keyboard, by touch, through a break of the server."""

import json
import os
import shutil

import pytest

from rlaif_pl.evaluation.human.store import RatingStore

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATH = next((path for name in BROWSERS if (path := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(PATH is None, reason=f"needs a browser: one of {BROWSERS}")


@pytest.fixture(scope="module")
def browser():
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=PATH, args=sandbox)
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """Open a page whose errors fail the test."""
    problems = []
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda said: said.type == "error" and problems.append(said.text))
    yield opened
    context.close()
    assert [text for text in problems if "ERR_FAILED" not in text] == []  # a test's own break


def expect(page, selector):
    return sync_api.expect(page.locator(selector))


def enter(page, link, name="Ann"):
    page.goto(link)
    page.fill("#name", name)
    page.keyboard.press("Enter")
    expect(page, ".card").to_have_count(3)


def ratings(out):
    with RatingStore(out / "ratings.sqlite") as store:
        return store.ratings(), store.tasks()


def test_by_keyboard(page, start, samples, tmp_path):
    out = tmp_path / "out"
    server = start("--samples", str(samples), "--out", str(out))
    enter(page, server.link)
    texts = page.locator(".card .text").all_text_contents()
    page.keyboard.press("Enter")  # incomplete: not sent
    page.keyboard.press("3")
    page.keyboard.press("Backspace")
    page.keyboard.press("2")
    page.keyboard.press("3")  # the last follows
    expect(page, "#status").to_have_text("Best to worst: 2, 3, 1")
    assert page.locator(".rank").all_text_contents() == ["worst", "best", "2nd"]
    page.keyboard.press("Enter")
    expect(page, "#count").to_have_text("1 by you, 1 of 36 in all")
    (rating,), tasks = ratings(out)
    items = tasks[rating.task].items
    assert [items[n].text for n in rating.shown] == texts
    assert [rating.ranks[n] for n in rating.shown] == [3, 1, 2]
    assert 0 < rating.seconds < 60
    page.keyboard.press("u")  # as it was, to be changed
    expect(page, "#status").to_have_text("Best to worst: 2, 3, 1")
    assert page.locator(".card .text").all_text_contents() == texts
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    expect(page, "#count").to_have_text("1 by you, 1 of 36 in all")
    page.keyboard.press("s")
    expect(page, "#count").to_have_text("2 by you, 1 of 36 in all")
    page.reload()  # the name is remembered
    expect(page, "#count").to_have_text("2 by you, 1 of 36 in all")
    (changed, skipped), _ = ratings(out)
    assert [changed.ranks[n] for n in changed.shown] == [1, 2, 3]
    assert skipped.ranks is None


def said_of(rating):
    return [rating.acceptable[n] for n in rating.shown]


def test_acceptable_by_keyboard(page, start, samples, tmp_path):
    out = tmp_path / "out"
    enter(page, start("--samples", str(samples), "--out", str(out)).link)
    for key in ("1", "2"):
        page.keyboard.press(key)
    page.keyboard.press("Shift+Digit2")
    page.keyboard.press("Shift+Digit2")
    said = page.locator(".verdict")
    assert said.all_text_contents() == ["Acceptable?", "✗ Not acceptable", "Acceptable?"]
    expect(page, "#status").to_have_text("Say also whether 1, 3 are acceptable.")
    page.keyboard.press("Enter")  # not sent: of all or of none
    expect(page, "#send").to_be_disabled()
    page.keyboard.press("a")
    assert said.all_text_contents() == ["✓ Acceptable", "✗ Not acceptable", "✓ Acceptable"]
    page.keyboard.press("Enter")
    expect(page, "#count").to_have_text("1 by you, 1 of 36 in all")
    (rating,), _ = ratings(out)
    assert said_of(rating) == [True, False, True]
    page.keyboard.press("u")
    expect(page, "#status").to_have_text("Best to worst: 1, 2, 3")
    assert said.all_text_contents() == ["✓ Acceptable", "✗ Not acceptable", "✓ Acceptable"]
    page.keyboard.press("Escape")
    assert said.all_text_contents() == ["Acceptable?"] * 3


def test_ties_by_keyboard(page, start, samples, tmp_path):
    out = tmp_path / "out"
    words = ("--samples", str(samples), "--out", str(out), "--ties", "true")
    enter(page, start(*words, "--page.acceptable", "false").link)
    expect(page, ".verdict").to_have_count(0)
    for key in "2=3":  # 2 and 3 are equally good, 1 follows
        page.keyboard.press(key)
    expect(page, "#status").to_have_text("Best to worst: 2 = 3, 1")
    assert page.locator(".rank").all_text_contents() == ["worst", "= best", "= best"]
    page.keyboard.press("=")  # the last too, and not
    expect(page, "#status").to_have_text("Best to worst: 2 = 3 = 1")
    page.keyboard.press("=")
    page.keyboard.press("Enter")
    expect(page, "#count").to_have_text("1 by you, 1 of 36 in all")
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.keyboard.press("=")
    expect(page, "#status").to_have_text("Best to worst: 1, 2 = 3")
    page.keyboard.press("Enter")
    expect(page, "#count").to_have_text("2 by you, 2 of 36 in all")
    page.keyboard.press("u")
    expect(page, "#status").to_have_text("Best to worst: 1, 2 = 3")
    page.keyboard.press("2")  # what was tied with it moves up alone
    expect(page, "#status").to_have_text("Best to worst: 1, 3")
    (rating,), _ = ratings(out)
    assert [rating.ranks[n] for n in rating.shown] == [3, 1, 1]
    assert rating.acceptable is None


def test_a_ranking_outlives_a_server_that_stopped(page, start, samples, tmp_path):
    out = tmp_path / "out"
    server = start("--samples", str(samples), "--out", str(out))
    enter(page, server.link)
    for key in "12":
        page.keyboard.press(key)
    page.route("**/api/rating", lambda route: route.abort())
    page.keyboard.press("Enter")
    expect(page, "#problem").to_contain_text("Not saved: the server cannot be reached")
    expect(page, "#status").to_have_text("Best to worst: 1, 2, 3")
    page.unroute("**/api/rating")
    page.keyboard.press("Enter")
    expect(page, "#count").to_have_text("1 by you, 1 of 36 in all")
    expect(page, "#problem").to_be_hidden()
    assert len(ratings(out)[0]) == 1


def test_on_a_phone_to_the_end(browser, start, samples, tmp_path):
    out = tmp_path / "out"
    words = ("--samples", str(samples), "--out", str(out), "--limit", "1", "--ties", "true")
    server = start(*words)
    context = browser.new_context(
        viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(server.link)
    page.fill("#name", "Bo")
    page.tap("form button")
    page.tap(".card >> nth=2")
    page.tap(".card >> nth=0")
    assert page.locator(".rank").all_text_contents() == ["2nd", "worst", "best"]
    page.tap(".card >> nth=2")  # taken back: the others move up
    assert page.locator(".rank").all_text_contents() == ["best", "", ""]
    page.tap("#equal")
    page.tap(".card >> nth=1")
    assert page.locator(".rank").all_text_contents() == ["= best", "= best", "worst"]
    page.tap(".verdict >> nth=2")
    page.tap(".verdict >> nth=2")
    page.tap("#rest")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360  # nothing to scroll sideways
    page.tap("#send")
    expect(page, "#end-title").to_have_text("Nothing left to rank. Thank you.")
    expect(page, "#undo").to_be_enabled()
    (rating,), _ = ratings(out)
    assert [rating.ranks[n] for n in rating.shown] == [1, 1, 3]
    assert said_of(rating) == [True, True, False]
    context.close()


def test_harmful_texts_wait_behind_a_click(page, start, samples, tmp_path):
    row = {"prompt": "a request", "sft": ["<b>bold</b>"], "policy": ["other"]}
    samples.with_name("sample_texts.jsonl").write_text(json.dumps(row) + "\n")
    server = start("--samples", str(samples), "--out", str(tmp_path / "out"))
    page.goto(server.link)
    page.fill("#name", "Cy")
    page.keyboard.press("Enter")
    expect(page, "#cover").to_be_visible()
    expect(page, "#prompt").to_be_hidden()
    page.keyboard.press("1")
    page.click("#reveal")
    expect(page, "#prompt").to_have_text("a request")
    assert set(page.locator(".rank").all_text_contents()) == {""}  # the key did nothing
    assert "<b>bold</b>" in page.locator(".card .text").all_text_contents()
