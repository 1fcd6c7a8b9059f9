"""Test the page in Chromium, with mouse, touch, pen and keyboard."""

import base64
import io
import itertools
import math
import re
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    CDPSession,
    ConsoleMessage,
    FloatRect,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

from tests.conftest import ROOT, TIMEOUT_S, Server
from tests.pictures import SEVEN_POINTS, encoded, seven
from webapp.model import Model
from webapp.preprocess import prepare

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
expect.set_options(timeout=1_000 * TIMEOUT_S)
TOKEN = "operator-token"

# URL patterns of the page's requests.
PREDICTIONS = "**/api/predictions"
PREVIEWS = "**/api/predictions?store=no"
LISTS = "**/api/predictions?limit=*"
LABELS = "**/api/predictions/*"
STATS = "**/api/stats"
MODEL = "**/api/model"

CIRCLE = [(0.5 + 0.2 * math.cos(a), 0.5 + 0.3 * math.sin(a)) for a in np.linspace(0, 6.2, 25)]
ARCH = [(0.2 + 0.6 * t, 0.8 - 2 * t * (1 - t)) for t in np.linspace(0, 1, 9)]
DRAWINGS = [
    SEVEN_POINTS,
    CIRCLE,
    ARCH,
    [(0.5, 0.1), (0.52, 0.9)],
    [(0.45, 0.3)],
    [(0.4, 0.5), (0.48, 0.6)],
]

SAVED = "Prediction saved: 7."
BUSY = "The server is busy."
UNREACHABLE = "The server cannot be reached. Check your connection."


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Return a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def new_context(browser: Browser, **device: Any) -> BrowserContext:
    """Return a browser context whose requests can be intercepted.

    A route that is set after a page is loaded can miss the page's next request, because Chromium
    then only begins to intercept. This context intercepts requests from the start.
    """
    context = browser.new_context(**device)
    context.route("**/no-such-file", lambda route: route.abort())
    return context


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that all tests share, because starting one takes seconds."""
    data_dir = tmp_path_factory.mktemp("page")
    server = Server(data_dir, WEB_CONCURRENCY="2", OPERATOR_TOKEN=TOKEN)
    server.wait_until_ready()
    yield server
    server.stop()


@pytest.fixture
def server(shared_server: Server) -> Server:
    """Return the shared server without any predictions."""
    now = quote(datetime.now(UTC).isoformat())
    delete = urllib.request.Request(
        f"{shared_server.url}/api/predictions?to={now}",
        headers={"Authorization": f"Bearer {TOKEN}"},
        method="DELETE",
    )
    urllib.request.urlopen(delete).close()
    return shared_server


@pytest.fixture
def console() -> Iterator[list[str]]:
    """Return the browser's console output, and check that it is empty after the test."""
    output: list[str] = []
    yield output
    assert output == []


@pytest.fixture
def failed_requests(console: list[str]) -> Iterator[None]:
    """Allow the console output about failed requests, and nothing else."""
    yield
    assert {line.partition(":")[0] for line in console} <= {"Failed to load resource"}
    console.clear()


@pytest.fixture
def visit(browser: Browser, server: Server, console: list[str]) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the page as a new visitor on a device with the given options."""
    contexts = []

    def visit(**device: Any) -> Page:
        contexts.append(new_context(browser, **device))
        page = contexts[-1].new_page()
        page.on("console", lambda message: console.append(message.text))
        page.on("pageerror", lambda error: console.append(str(error)))
        page.goto(server.url)
        return page

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """Return a tab that most tests share, because a new one takes a second of CPU time."""
    context = new_context(browser, **PHONE)
    yield context.new_page()
    context.close()


@pytest.fixture
def page(tab: Page, server: Server, console: list[str]) -> Iterator[Page]:
    """Return the page as a new visitor with a phone sees it."""

    def record(entry: Any) -> None:
        console.append(entry.text if isinstance(entry, ConsoleMessage) else str(entry))

    tab.on("console", record)
    tab.on("pageerror", record)
    tab.goto(server.url)
    yield tab
    tab.unroute_all(behavior="ignoreErrors")
    tab.context.set_offline(False)
    tab.goto(f"{server.url}/healthz")  # a document of the same origin that stores nothing
    tab.evaluate("sessionStorage.clear()")
    tab.context.clear_cookies()
    tab.remove_listener("console", record)
    tab.remove_listener("pageerror", record)


def box_of(page: Page, selector: str = "#pad") -> FloatRect:
    """Return the bounding box of an element."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box


def draw_seven(page: Page) -> None:
    """Draw a 7 with the mouse."""
    box = box_of(page)
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in SEVEN_POINTS]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=3)
    page.mouse.up()


def draw_stroke(page: Page, points: Iterable[tuple[float, float]]) -> None:
    """Draw a stroke with the mouse; points in units of the pad's edge."""
    box = box_of(page)
    (x, y), *rest = points
    page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
    page.mouse.down()
    for x, y in rest:
        page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
    page.mouse.up()


def draw_dot(page: Page) -> None:
    """Click near a corner of the pad."""
    page.click("#pad", position={"x": 40, "y": 300})


def predict_seven(page: Page) -> None:
    """Draw a 7 and store its prediction."""
    draw_seven(page)
    page.click("#predict")
    expect(page.locator("#message")).to_have_text(SAVED)


def add_seven(page: Page, label: int | None = None) -> None:
    """Store the prediction of a 7 through the API, as the page's visitor."""
    image = {"image": f"data:image/png;base64,{base64.b64encode(encoded(seven())).decode()}"}
    id_ = page.request.post(f"{page.url}api/predictions", data=image).json()["id"]
    if label is not None:
        page.request.patch(f"{page.url}api/predictions/{id_}", data={"true_digit": label})


def decode_url(url: str) -> Image.Image:
    """Decode the image in a data URL."""
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def pixels_of(page: Page, selector: str) -> Image.Image:
    """Return the RGBA pixels of a canvas."""
    url = page.locator(selector).first.evaluate("canvas => canvas.toDataURL()")
    return decode_url(url).convert("RGBA")


def ink(page: Page) -> int:
    """Return the number of the pad's pixels that have ink."""
    return int(np.count_nonzero(np.asarray(pixels_of(page, "#pad").getchannel("A"))))


def hold(page: Page, url: str) -> list[Route]:
    """Hold back the requests to a URL; return a list to which they are added."""
    held: list[Route] = []
    page.route(url, lambda route: held.append(route))
    return held


def take(page: Page, held: list[Route]) -> Route:
    """Wait for the next request that is held back."""
    for _ in range(100 * TIMEOUT_S):
        if held:
            return held.pop(0)
        page.wait_for_timeout(10)
    pytest.fail("no request was sent")


def settle(page: Page) -> None:
    """Give the page some time to do what it should not do."""
    page.wait_for_timeout(100)


def finish(page: Page, route: Route, outcome: str = "continue_") -> None:
    """Continue or abort a request that is held back, and wait until the page has handled it."""
    event = "requestfinished" if outcome == "continue_" else "requestfailed"
    with page.expect_event(event, lambda request: request == route.request):
        getattr(route, outcome)()
    settle(page)


def label_cell(page: Page, row: int = 0) -> Any:
    """Return the label in a row of the table of recent predictions."""
    return page.locator("#history tbody tr").nth(row).locator("td").nth(3)


# ---- Predictions -----------------------------------------------------------------------------


def test_digit_is_drawn_predicted_labelled_and_stored(page: Page, server: Server) -> None:
    answer, one = page.locator("#answer"), page.locator('#feedback [data-digit="1"]')
    expect(one).to_be_disabled()
    draw_seven(page)
    page.click("#predict")
    expect(answer).to_have_text("7")
    expect(page.locator("#probabilities li.winner")).to_contain_text("7")
    expect(page.locator("#confidence")).to_contain_text("%")
    one.click()
    expect(page.locator("#message")).to_have_text("Label saved: 1.")
    expect(page.locator("#history tbody td").nth(1)).to_have_text("7")
    expect(label_cell(page)).to_have_text("1")

    (stored,) = page.request.get(f"{server.url}/api/predictions").json()["predictions"]
    assert stored["id"] == answer.get_attribute("data-prediction-id")
    assert (stored["predicted_digit"], stored["true_digit"]) == (7, 1)


def test_result_shows_the_response(page: Page) -> None:
    draw_seven(page)
    with page.expect_response(PREDICTIONS) as response:
        page.click("#predict")
    prediction = response.value.json()
    percentages = [f"{100 * probability:.1f}" for probability in prediction["probabilities"]]
    rows = page.locator("#probabilities li").all()
    for element, percentage in zip(
        [*rows, page.locator("#confidence")], [*percentages, percentages[7]], strict=True
    ):
        expect(element.locator(".value")).to_have_text(f"{percentage} %")
        width = element.locator(".bar span").evaluate("bar => parseFloat(bar.style.width)")
        assert f"{width:.1f}" == percentage
    expect(page.locator("#confidence")).to_have_attribute("data-level", "high")
    expect(page.locator('#feedback [aria-pressed="true"]')).to_have_count(0)
    seen = pixels_of(page, "#seen")
    assert (255 - np.asarray(seen.convert("L"))).tobytes() == base64.b64decode(prediction["pixels"])
    assert pixels_of(page, "#history canvas").tobytes() == seen.tobytes()


def test_drawing_is_stored_once(page: Page) -> None:
    for _ in range(2):
        predict_seven(page)
        page.click("#predict")
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
    draw_seven(page)
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator("#history tbody tr")).to_have_count(2)


def test_predictions_on_a_slow_first_visit_have_one_owner(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    slow = {"offline": False, "latency": 600, "downloadThroughput": -1, "uploadThroughput": -1}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    for _ in range(2):
        page.keyboard.press("Escape")
        page.click("#pad")
        page.keyboard.press("Enter")
    rows = page.locator("#history tbody tr")
    expect(rows).to_have_count(2)
    rows.nth(1).click()
    page.keyboard.press("7")
    expect(page.locator("#message")).to_have_text("Label saved: 7.")


def test_new_stroke_outdates_the_prediction(page: Page) -> None:
    predict_seven(page)
    previews = hold(page, PREVIEWS)
    draw_dot(page)
    take(page, previews)
    assert page.locator("#answer").get_attribute("data-prediction-id") is None
    expect(page.locator('#feedback [data-digit="7"]')).to_be_disabled()
    expect(page.locator("#message")).to_have_text("")


def test_longer_stroke_outdates_the_prediction(page: Page) -> None:
    box = box_of(page)
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_have_attribute("data-prediction-id", re.compile("."))
    page.mouse.move(box["x"] + 50, box["y"] + 150)
    expect(page.locator("#message")).to_have_text("")
    assert page.locator("#answer").get_attribute("data-prediction-id") is None
    page.mouse.up()


def test_response_for_an_older_drawing_is_not_shown(page: Page) -> None:
    predictions = hold(page, PREDICTIONS)
    draw_seven(page)
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    finish(page, take(page, predictions))
    expect(page.locator("#history tbody tr")).to_have_count(1)
    expect(page.locator("#answer")).to_have_text("")
    expect(page.locator("#message")).to_have_text("")


def test_uncertain_prediction_is_shown_as_such(page: Page) -> None:
    draw_dot(page)
    page.click("#predict")
    expect(page.locator("#message")).to_contain_text("Not sure. Best guess:")
    expect(page.locator("#confidence")).to_have_attribute("data-level", "low")


def test_bar_of_an_uncertain_prediction_is_low_whatever_its_confidence(page: Page) -> None:
    unclear = {"uncertain": True, "doubt": "several_digits", "confidence": 0.9}
    page.route(PREDICTIONS, lambda route: route.fulfill(json=route.fetch().json() | unclear))
    draw_seven(page)
    page.click("#predict")
    expect(page.locator("#message")).to_contain_text("more than one digit")
    expect(page.locator("#confidence")).to_have_attribute("data-level", "low")


def keys_of(page: Page) -> list[str]:
    """Return a list to which the key of each request to store is added."""
    keys: list[str] = []

    def note(request: Request) -> None:
        if request.method == "POST" and request.url.endswith("/api/predictions"):
            keys.append(request.headers["idempotency-key"])

    page.on("request", note)
    return keys


@pytest.mark.usefixtures("failed_requests")
@pytest.mark.parametrize("is_file", [False, True])
def test_prediction_whose_response_is_lost_is_stored_once(page: Page, is_file: bool) -> None:
    keys = keys_of(page)

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route(PREDICTIONS, lose, times=1)
    if is_file:
        page.locator("#file").set_input_files(image_file())
    else:
        draw_seven(page)
    page.click("#predict")
    expect(page.locator("#message")).to_have_text(SAVED)
    expect(page.locator("#history tbody tr")).to_have_count(1)
    assert len(page.request.get(f"{page.url}api/predictions").json()["predictions"]) == 1
    assert len(keys) == 2
    assert len({*keys}) == 1


def test_each_prediction_has_its_own_key(page: Page) -> None:
    keys = keys_of(page)
    draw_seven(page)
    for _ in range(2):
        page.click("#predict")
        expect(page.locator("#answer[data-prediction-id]")).to_have_count(1)
        page.locator("#history tbody tr").first.click()
    assert len({*keys}) == len(keys) == 2
    assert all(re.fullmatch("[A-Za-z0-9_-]{16,64}", key) for key in keys)


def test_prediction_is_deleted_from_the_history(page: Page) -> None:
    predict_seven(page)
    add_seven(page)
    page.reload()
    rows = page.locator("#history tbody tr")
    expect(rows).to_have_count(2)
    expect(page.locator("#delete")).to_be_disabled()
    rows.first.click()
    page.click("#delete")
    expect(rows).to_have_count(1)
    expect(page.locator("#message")).to_have_text("Prediction deleted.")
    assert len(page.request.get(f"{page.url}api/predictions").json()["predictions"]) == 1


def test_deleted_prediction_cannot_be_labelled(page: Page) -> None:
    predict_seven(page)
    page.click("#delete")
    expect(page.locator("#answer[data-prediction-id]")).to_have_count(0)
    expect(page.locator("#feedback button").first).to_be_disabled()
    expect(page.locator("#delete")).to_be_disabled()
    page.click("#predict")  # the drawing is still there
    expect(page.locator("#history tbody tr")).to_have_count(1)


@pytest.mark.usefixtures("failed_requests")
def test_prediction_of_somebody_else_is_not_deleted(page: Page, visit: Callable[..., Page]) -> None:
    add_seven(page)
    other = visit(**PHONE)
    other.locator("#history tbody tr").click()
    other.click("#delete")
    expect(other.locator("#message")).to_contain_text("Cookies are needed to delete")
    expect(other.locator("#history tbody tr")).to_have_count(1)


def test_everything_that_a_visitor_drew_is_deleted(page: Page, visit: Callable[..., Page]) -> None:
    add_seven(visit(**PHONE))
    page.reload()
    predict_seven(page)
    page.click("#delete-mine")
    expect(page.locator("#message")).to_have_text("Deleted 1 prediction.")
    expect(page.locator("#history tbody tr")).to_have_count(1)
    expect(page.locator("#answer[data-prediction-id]")).to_have_count(0)
    page.click("#delete-mine")
    expect(page.locator("#message")).to_have_text("This browser has stored no predictions.")


def strip_prefix(route: Route) -> None:
    """Forward a request as a proxy does that serves /digits/."""
    headers = route.request.headers | {"x-forwarded-prefix": "/digits"}
    route.continue_(url=route.request.url.replace("/digits", "", 1), headers=headers)


def test_page_works_below_a_path(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, None, WEB_CONCURRENCY="1", TRUSTED_PROXIES="1") as server:
        page = browser.new_page()
        page.route("**/digits/**", strip_prefix)
        page.goto(f"{server.url}/digits/", wait_until="networkidle")
        draw_seven(page)
        page.click("#predict")
        expect(page.locator("#answer")).to_have_attribute("data-prediction-id", re.compile(".+"))


@pytest.mark.parametrize(
    ("history", "who", "rows"),
    [
        ("everyone", "Everyone who visits this page", 1),
        ("own", "You and the operator", 0),
        ("nobody", "Only the operator", 0),
    ],
)
def test_page_says_who_sees_drawings(
    browser: Browser, tmp_path: Path, console: list[str], history: str, who: str, rows: int
) -> None:
    options = {"WEB_CONCURRENCY": "1", "RETENTION_DAYS": "30"}
    with Server(tmp_path, None, **options, HISTORY=history) as server:
        server.post()
        page = browser.new_page()
        page.on("console", lambda message: console.append(message.text))
        page.goto(server.url, wait_until="networkidle")
        privacy = page.locator("#privacy p")
        expect(privacy).to_contain_text("for 30 days")
        expect(privacy).to_contain_text(f"{who} can see the drawing")
        expect(page.locator("#history tbody tr")).to_have_count(rows)
        expect(page.locator("#recent")).to_be_visible(visible=history != "nobody")
        page.close()


def test_drawing_can_be_predicted_after_another_was_shown(page: Page) -> None:
    predict_seven(page)
    page.locator("#history tbody tr").click()
    page.click("#predict")
    expect(page.locator("#history tbody tr")).to_have_count(2)


def test_clear_and_undo_remove_the_prediction(page: Page) -> None:
    answer, confidence = page.locator("#answer"), page.locator("#confidence")
    for key in ("Escape", "Control+z"):
        draw_seven(page)
        page.keyboard.press("Enter")
        expect(answer).to_have_text("7")
        page.keyboard.press(key)
        expect(answer).to_have_text("")
        assert answer.get_attribute("data-prediction-id") is None
        expect(confidence).to_have_text("–")
        assert confidence.get_attribute("data-level") is None
        expect(page.locator("#probabilities .winner")).to_have_count(0)
        assert not np.asarray(pixels_of(page, "#seen")).any()
    page.click("#clear")
    expect(page.locator("#pad")).to_be_focused()
    page.click("#predict")
    expect(page.locator("#message")).to_have_text("Draw a digit first.")
    draw_dot(page)
    expect(page.locator("#message")).to_have_text("")


# ---- Previews --------------------------------------------------------------------------------


def test_previews_follow_the_drawing_and_are_not_stored(page: Page) -> None:
    draw_seven(page)
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator("#probabilities li.winner")).to_contain_text("7")
    expect(page.locator('#feedback [data-digit="7"]')).to_be_disabled()
    assert page.locator("#answer").get_attribute("data-prediction-id") is None
    page.reload()
    expect(page.locator("#recent .empty")).to_be_visible()


def test_previews_are_sent_one_at_a_time_at_intervals(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    page.clock.install()
    page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=1))
    previews = hold(page, PREVIEWS)
    draw_seven(page)
    preview = take(page, previews)
    settle(page)
    assert previews == []
    preview.continue_()
    expect(page.locator("#answer")).not_to_have_text("")
    page.clock.run_for(59)
    settle(page)
    assert previews == []
    page.clock.run_for(1)
    take(page, previews).continue_()
    expect(page.locator("#answer")).to_have_text("7")
    page.clock.run_for(60)
    settle(page)
    assert previews == []  # The drawing has not changed.


@pytest.mark.parametrize("outcome", ["continue_", "abort"])
@pytest.mark.usefixtures("failed_requests")
def test_preview_of_an_older_drawing_is_not_shown(page: Page, outcome: str) -> None:
    previews = hold(page, PREVIEWS)
    draw_seven(page)
    page.keyboard.press("Escape")
    finish(page, take(page, previews), outcome)
    expect(page.locator("#answer")).to_have_text("")
    expect(page.locator("#message")).to_have_text("")
    assert previews == []  # The pad is empty.


@pytest.mark.parametrize("outcome", ["continue_", "abort"])
@pytest.mark.usefixtures("failed_requests")
def test_preview_never_replaces_a_stored_prediction(page: Page, outcome: str) -> None:
    previews = hold(page, PREVIEWS)
    predict_seven(page)
    finish(page, take(page, previews), outcome)
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator("#answer")).to_have_attribute("data-prediction-id", re.compile("."))
    assert previews == []  # The drawing is already predicted.


@pytest.mark.usefixtures("failed_requests")
def test_failed_preview_removes_the_answer(page: Page) -> None:
    draw_seven(page)
    expect(page.locator("#answer")).to_have_text("7")
    page.context.set_offline(True)
    draw_dot(page)
    expect(page.locator("#answer")).to_have_text("")
    expect(page.locator("#message")).to_have_text(UNREACHABLE)


def test_hidden_tab_sends_no_previews(page: Page) -> None:
    hide = "value => Object.defineProperty(document, 'hidden', { configurable: true, value })"
    previews = hold(page, PREVIEWS)
    page.evaluate(hide, True)
    draw_seven(page)
    settle(page)
    assert previews == []
    page.evaluate(hide, False)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    take(page, previews).continue_()
    expect(page.locator("#answer")).to_have_text("7")


@pytest.mark.usefixtures("failed_requests")
def test_rate_limit_pauses_previews_silently(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    page.clock.install()
    previews = hold(page, PREVIEWS)
    draw_seven(page)
    problem = {"detail": "Too many requests. Try again in 30 seconds."}
    with page.expect_event("requestfinished"):
        take(page, previews).fulfill(status=429, headers={"Retry-After": "30"}, json=problem)
    settle(page)
    expect(page.locator("#message")).to_have_text("")
    draw_dot(page)
    settle(page)
    assert previews == []
    page.clock.fast_forward(30_000)
    take(page, previews)


# ---- Failures --------------------------------------------------------------------------------


def refuse(page: Page, url: str) -> None:
    """Let the server be busy for an hour."""
    busy: Any = {"status": 503, "headers": {"Retry-After": "3600"}, "json": {"detail": BUSY}}
    page.route(url, lambda route: route.fulfill(**busy))


@pytest.mark.usefixtures("failed_requests")
def test_prediction_is_repeated_after_a_network_failure(page: Page) -> None:
    previews = hold(page, PREVIEWS)
    draw_seven(page)
    page.context.set_offline(True)
    page.click("#predict")
    expect(page.locator("#message")).to_have_text(f"Unsaved: 1. {UNREACHABLE}")
    finish(page, take(page, previews), "abort")
    expect(page.locator("#message")).to_have_text(f"Unsaved: 1. {UNREACHABLE}")
    page.context.set_offline(False)
    expect(page.locator("#message")).to_have_text(SAVED)
    expect(page.locator("#retry")).to_be_hidden()


@pytest.mark.usefixtures("failed_requests")
def test_all_failed_predictions_and_labels_are_sent_when_the_visitor_tries_again(
    page: Page,
) -> None:
    predict_seven(page)
    for url in (PREDICTIONS, LABELS):
        refuse(page, url)
    page.keyboard.press("8")
    for _ in range(2):
        page.keyboard.press("Escape")
        draw_seven(page)
        page.keyboard.press("Enter")
    expect(page.locator("#message")).to_have_text(f"Unsaved: 3. {BUSY}")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#history tbody tr")).to_have_count(3)
    expect(label_cell(page, row=2)).to_have_text("8")
    expect(page.locator("#message")).to_have_text(SAVED)


@pytest.mark.usefixtures("failed_requests")
def test_request_is_repeated_after_the_time_that_the_server_names(
    visit: Callable[..., Page],
) -> None:
    page = visit(**PHONE)
    predict_seven(page)
    page.clock.install()
    labels = hold(page, LABELS)
    page.keyboard.press("8")
    take(page, labels).fulfill(status=429, headers={"Retry-After": "60"}, json={"detail": BUSY})
    expect(page.locator("#message")).to_have_text(f"Unsaved: 1. {BUSY}")
    page.clock.fast_forward(30_000)
    settle(page)
    assert labels == []
    page.clock.fast_forward(30_000)
    take(page, labels).continue_()
    expect(page.locator("#message")).to_have_text("Label saved: 8.")


@pytest.mark.usefixtures("failed_requests")
def test_browser_asks_before_it_leaves_a_page_with_unsaved_labels(page: Page) -> None:
    predict_seven(page)
    refuse(page, LABELS)
    page.keyboard.press("8")
    expect(page.locator("#message")).to_contain_text("Unsaved: 1.")
    with page.expect_event("dialog") as dialog:
        page.evaluate("setTimeout(() => location.reload())")
    assert dialog.value.type == "beforeunload"
    dialog.value.dismiss()
    page.unroute_all()
    page.click("#retry")
    expect(page.locator("#message")).to_have_text("Label saved: 8.")


def test_hanging_request_times_out_and_is_repeated(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    page.clock.install()
    predictions, previews = hold(page, PREDICTIONS), hold(page, PREVIEWS)
    draw_seven(page)
    take(page, previews)  # times out first, for the same reason
    page.click("#predict")
    take(page, predictions)
    page.clock.fast_forward(15_000)
    expect(page.locator("#message")).to_have_text(f"Unsaved: 1. {UNREACHABLE}")
    page.clock.fast_forward(2_000)
    take(page, predictions).continue_()
    expect(page.locator("#message")).to_have_text(SAVED)


def test_prediction_that_was_not_stored_is_sent_again(page: Page) -> None:
    page.route(
        PREDICTIONS,
        lambda route: route.continue_(url=f"{route.request.url}?store=no"),
    )
    hold(page, PREVIEWS)
    draw_seven(page)
    page.click("#predict")
    expect(page.locator("#message")).to_have_text("Unsaved: 1. The database is unavailable.")
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator("#history")).to_be_hidden()
    page.unroute(PREDICTIONS)
    expect(page.locator("#message")).to_have_text(SAVED)


@pytest.mark.parametrize("status", [200, 502])
@pytest.mark.usefixtures("failed_requests")
def test_response_that_is_not_json_is_an_error(page: Page, status: int) -> None:
    page.route(PREDICTIONS, lambda route: route.fulfill(status=status, body="<h1>Sign in</h1>"))
    draw_seven(page)
    page.click("#predict")
    error = "The server sent an unexpected response."
    expect(page.locator("#message")).to_have_text(f"Unsaved: 1. {error}")
    expect(page.locator("#retry")).to_be_visible()


@pytest.mark.usefixtures("failed_requests")
def test_error_shows_the_detail_of_the_problem(page: Page) -> None:
    problem = {"detail": "This image is blank."}
    page.route(PREDICTIONS, lambda route: route.fulfill(status=422, json=problem))
    draw_seven(page)
    page.click("#predict")
    expect(page.locator("#message")).to_have_text(problem["detail"])
    expect(page.locator("#retry")).to_be_hidden()
    page.unroute(PREDICTIONS)
    page.click("#predict")
    expect(page.locator("#message")).to_have_text(SAVED)


@pytest.mark.usefixtures("failed_requests")
def test_all_failed_parts_of_the_page_are_loaded_when_the_visitor_tries_again(page: Page) -> None:
    predict_seven(page)
    for url in (LISTS, STATS, MODEL):
        refuse(page, url)
    page.reload()
    expect(page.locator("#message")).to_have_text(BUSY)
    page.unroute_all()
    page.click("#retry")
    for part in ("#history tbody", "#stats .accuracy", ".model"):
        expect(page.locator(part)).not_to_be_empty()


# ---- Labels ----------------------------------------------------------------------------------


def test_label_is_saved_changed_and_removed_by_key(page: Page) -> None:
    message = page.locator("#message")
    page.keyboard.press("5")
    expect(message).to_have_text("")
    predict_seven(page)
    for key, text, label in (
        ("8", "Label saved: 8.", "8"),
        ("7", "Label saved: 7.", "7"),
        ("7", "Label removed.", "–"),
    ):
        page.keyboard.press(key)
        expect(message).to_have_text(text)
        expect(label_cell(page)).to_have_text(label)


def test_label_applies_to_the_prediction_that_was_shown(page: Page) -> None:
    for _ in range(2):
        page.keyboard.press("Escape")
        predict_seven(page)
    labels = hold(page, LABELS)
    page.keyboard.down("7")
    page.keyboard.down("7")  # A key that is held down repeats, and must not remove the label.
    page.keyboard.up("7")
    page.keyboard.press("1")
    page.locator("#history tbody tr").nth(1).click()
    for _ in range(2):
        take(page, labels).continue_()
    expect(label_cell(page, row=0)).to_have_text("1")
    expect(label_cell(page, row=1)).to_have_text("–")
    expect(page.locator("#message")).to_have_text("Showing a saved prediction.")
    expect(page.locator('#feedback [aria-pressed="true"]')).to_have_count(0)


def test_labels_are_sent_one_after_another(page: Page) -> None:
    predict_seven(page)
    labels = hold(page, LABELS)
    page.keyboard.press("8")
    page.keyboard.press("1")
    first = take(page, labels)
    settle(page)
    assert labels == []
    first.continue_()
    take(page, labels).continue_()
    expect(page.locator("#message")).to_have_text("Label saved: 1.")


@pytest.mark.usefixtures("failed_requests")
def test_last_label_wins_after_a_failure(page: Page) -> None:
    predict_seven(page)
    labels = hold(page, LABELS)
    page.keyboard.press("8")
    take(page, labels).abort()
    expect(page.locator("#message")).to_have_text(f"Unsaved: 1. {UNREACHABLE}")
    page.keyboard.press("1")
    for _ in range(2):
        take(page, labels).continue_()
    expect(page.locator("#message")).to_have_text("Label saved: 1.")
    expect(label_cell(page)).to_have_text("1")
    expect(page.locator("#retry")).to_be_hidden()


@pytest.mark.usefixtures("failed_requests")
def test_label_is_saved_when_the_statistics_fail(page: Page) -> None:
    predict_seven(page)
    page.route(STATS, lambda route: route.abort())
    with page.expect_event("requestfailed"):
        page.keyboard.press("8")
    settle(page)
    expect(page.locator("#message")).to_have_text("Label saved: 8.")


@pytest.mark.usefixtures("failed_requests")
def test_label_for_another_visitors_prediction_is_rejected(visit: Callable[..., Page]) -> None:
    predict_seven(visit())
    page = visit()
    page.locator("#history tbody tr").click()
    with page.expect_response(LABELS) as response:
        page.keyboard.press("8")
    assert response.value.status == 403
    expect(page.locator("#message")).to_have_text(response.value.json()["detail"])
    expect(label_cell(page)).to_have_text("–")


def test_label_from_another_tab_is_shown(page: Page) -> None:
    predict_seven(page)
    other = page.context.new_page()
    other.goto(page.url)
    other.locator("#history tbody tr").click()
    other.keyboard.press("8")
    expect(other.locator("#message")).to_have_text("Label saved: 8.")
    other.close()
    page.select_option("[name=outcome]", "incorrect")
    expect(label_cell(page)).to_have_text("8")
    page.locator("#history tbody tr").click()
    page.keyboard.press("8")
    expect(page.locator("#message")).to_have_text("Label removed.")


# ---- Keyboard --------------------------------------------------------------------------------


def test_page_can_be_used_with_the_keyboard_alone(page: Page) -> None:
    page.locator("#file").set_input_files(image_file())
    page.locator("#pad").focus()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    for expected in ("pad", "predict", "undo", "clear"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == expected
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.locator("#pad").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_have_text(SAVED)
    page.keyboard.press("7")
    expect(page.locator("#stats .accuracy")).to_contain_text("(1 of 1)")
    page.keyboard.press("Escape")
    expect(page.locator("#answer")).to_have_text("")
    assert ink(page) == 0


def test_keys_for_the_browser_or_a_control_are_left_alone(page: Page) -> None:
    predict_seven(page)
    inked = ink(page)
    labels = hold(page, LABELS)
    for key in ("Control+5", "Alt+5", "z"):
        page.keyboard.press(key)
    page.locator("[name=digit]").focus()
    page.keyboard.press("7")
    expect(page.locator("[name=digit]")).to_have_value("7")
    settle(page)
    assert labels == []
    assert ink(page) == inked
    page.locator("#undo").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_have_text("")
    expect(page.locator("#message")).to_have_text("")


# ---- Images ----------------------------------------------------------------------------------


def image_file(edge: int = 280) -> Any:
    """Return an image of a 7 for the file input."""
    return {"name": "seven.png", "mimeType": "image/png", "buffer": encoded(seven(edge))}


TRANSFER = """([event, body]) => {
    const files = new DataTransfer();
    const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
    files.items.add(new File([bytes], "seven", { type: "image/png" }));
    const data = { clipboardData: files, dataTransfer: files, bubbles: true };
    document.body.dispatchEvent(
        event === "paste" ? new ClipboardEvent(event, data) : new DragEvent(event, data),
    );
}"""


def test_image_is_pasted_dropped_or_chosen(page: Page) -> None:
    answer = page.locator("#answer")
    body = base64.b64encode(encoded(seven())).decode()
    for event in ("paste", "drop"):
        page.evaluate(TRANSFER, [event, body])
        expect(answer).to_have_text("7")
        page.keyboard.press("Control+z")
        expect(answer).to_have_text("")
    page.locator("#file").set_input_files(image_file())
    expect(answer).to_have_text("7")
    page.evaluate(TRANSFER, ["drop", base64.b64encode(b"not an image").decode()])
    expect(page.locator("#message")).to_contain_text("cannot be read as an image")
    expect(answer).to_have_text("7")


def test_file_input_is_reset_so_that_the_same_file_can_be_chosen_again(page: Page) -> None:
    page.locator("#file").set_input_files(image_file())
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator("#file")).to_have_value("")


def test_dropped_file_never_opens_in_the_tab(page: Page) -> None:
    is_prevented = """(type) => !document.body.dispatchEvent(new DragEvent(
        type, { dataTransfer: new DataTransfer(), bubbles: true, cancelable: true }))"""
    assert page.evaluate(is_prevented, "dragover")
    assert page.evaluate(is_prevented, "drop")


def test_pasted_text_is_ignored(page: Page) -> None:
    page.evaluate("""document.body.dispatchEvent(new ClipboardEvent(
        "paste", { clipboardData: new DataTransfer(), bubbles: true }))""")
    settle(page)
    expect(page.locator("#message")).to_have_text("")


def test_image_and_strokes_replace_each_other(page: Page) -> None:
    draw_seven(page)
    inked = ink(page)
    wide = Image.new("RGB", (1000, 500), "white")
    wide.paste(0, (300, 0), seven(500))
    page.locator("#file").set_input_files(
        {"name": "wide.png", "mimeType": "image/png", "buffer": encoded(wide)}
    )
    expect(page.locator("#file")).to_have_value("")
    pad = page.locator("#pad").evaluate("pad => pad.width * pad.height")
    assert ink(page) / pad == pytest.approx(0.5, abs=0.01)
    draw_seven(page)
    assert ink(page) == inked
    page.keyboard.press("Control+z")
    assert ink(page) == 0


def two_digits() -> Any:
    """Return a picture of two digits side by side, as a file."""
    wide = Image.new("RGB", (2000, 1000), "white")
    for left in (100, 1100):
        wide.paste(0, (left, 100), seven(800))
    return {"name": "wide.png", "mimeType": "image/png", "buffer": encoded(wide)}


def test_picture_is_cropped_by_dragging_a_rectangle(page: Page) -> None:
    page.locator("#file").set_input_files(two_digits())
    page.click("#crop")
    expect(page.locator("#message")).to_contain_text("Drag a rectangle")
    with page.expect_request(PREVIEWS) as request:
        draw_stroke(page, [(0.02, 0.27), (0.3, 0.5), (0.48, 0.73)])
    width, height = decode_url(request.value.post_data_json["image"]).size
    assert width == 500  # 920 pixels of the original
    assert height == pytest.approx(500, abs=5)
    expect(page.locator("#answer")).to_have_text("7")


def test_picture_is_cropped_with_the_keyboard(page: Page) -> None:
    page.locator("#file").set_input_files(two_digits())
    expect(page.locator("#crop")).to_be_visible()  # press() does not wait for that
    page.locator("#crop").press("Enter")
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_have_text("7")
    page.keyboard.press("Control+z")
    expect(page.locator("#crop")).to_be_hidden()


def test_escape_ends_cropping_and_keeps_the_picture(page: Page) -> None:
    page.locator("#file").set_input_files(two_digits())
    page.click("#crop")
    expect(page.locator("#crop")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#crop")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#crop")).to_be_visible()


def test_drag_that_the_system_cancels_crops_nothing(page: Page) -> None:
    with page.expect_response(PREVIEWS):
        page.locator("#file").set_input_files(two_digits())
    page.click("#crop")
    previews = hold(page, PREVIEWS)
    for step, position in (("down", 0.3), ("move", 0.5), ("cancel", 0.5)):
        point(page, step, "mouse", position, position)
    settle(page)
    assert previews == []
    expect(page.locator("#crop")).to_be_visible()


def test_large_image_is_scaled_down_before_upload(page: Page) -> None:
    with page.expect_request(PREVIEWS) as request:
        page.locator("#file").set_input_files(image_file(edge=2500))
    assert decode_url(request.value.post_data_json["image"]).size == (500, 500)


FALSIFY = """(() => {
    const read = HTMLCanvasElement.prototype.toDataURL;
    HTMLCanvasElement.prototype.toDataURL = function () {
        const pixels = new ImageData(this.width, this.height);
        for (let i = 0; i < pixels.data.length; i++) pixels.data[i] = %s;
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [this.width, this.height];
        canvas.getContext("2d").putImageData(pixels, 0, 0);
        return read.call(canvas);
    };
})()"""


@pytest.mark.parametrize("level", ["256 * Math.random()", "255"])
def test_falsified_image_is_never_sent(visit: Callable[..., Page], level: str) -> None:
    page = visit(**PHONE)
    page.add_init_script(FALSIFY % level)
    page.reload()
    with page.expect_request(PREVIEWS) as request:
        page.locator("#file").set_input_files(image_file(edge=2500))
    assert request.value.header_value("content-type") == "image/png"
    expect(page.locator("#answer")).to_have_text("7")
    page.click("#crop")
    page.click("#crop")  # crops to the rectangle in the middle
    expect(page.locator("#message")).to_contain_text("This browser alters images")
    page.click("#predict")
    expect(page.locator("#message")).to_contain_text("This browser alters images")
    expect(page.locator("#answer")).to_have_text("")
    expect(page.locator("#history")).to_be_hidden()


def test_small_image_is_sent_as_the_file(page: Page) -> None:
    with page.expect_request(PREVIEWS) as request:
        page.locator("#file").set_input_files(image_file())
    assert request.value.header_value("content-type") == "image/png"
    expect(page.locator("#answer")).to_have_text("7")


def test_strokes_are_read_as_the_canvas_shows_them(page: Page) -> None:
    network = Model(ROOT / "artifacts" / "digits.onnx")
    for points in DRAWINGS:
        page.keyboard.press("Escape")
        draw_stroke(page, points)
        with page.expect_response(PREDICTIONS) as response:
            page.click("#predict")
        prediction = response.value.json()
        shown = prepare(pixels_of(page, "#pad").getchannel("A"))
        seen = np.frombuffer(base64.b64decode(prediction["pixels"]), np.uint8).reshape(28, 28)
        shifts = itertools.product((-1, 0, 1), repeat=2)  # by rounding of the center of mass
        shifted = [np.roll(seen.astype(int), shift, (0, 1)) for shift in shifts]
        assert min(np.abs(each - shown).mean() for each in shifted) < 8
        assert network.classify(shown).predicted_digit == prediction["predicted_digit"]


# ---- Recent predictions and statistics -------------------------------------------------------


def test_recent_predictions_are_filtered_and_shown_again(page: Page) -> None:
    rows, empty = page.locator("#history tbody tr"), page.locator("#recent .empty")
    expect(empty).to_have_text("No predictions yet.")
    for label in (7, 2, None):
        add_seven(page, label)
    page.reload()
    for outcome, text in (("correct", "7"), ("incorrect", "2"), ("unlabelled", "–")):
        page.select_option("[name=outcome]", outcome)
        expect(rows).to_have_count(1)
        expect(label_cell(page)).to_have_text(text)
    page.select_option("[name=digit]", "3")
    expect(empty).to_have_text("No predictions match these filters.")
    page.select_option("[name=digit]", "")
    page.select_option("[name=outcome]", "")
    expect(rows).to_have_count(3)
    expect(page.locator("#answer")).to_have_text("")
    rows.nth(2).get_by_role("button").click()
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator('#feedback [aria-pressed="true"]')).to_have_text("7")


def test_columns_sort_in_both_directions(page: Page) -> None:
    for label in (None, 0, 7):
        add_seven(page, label)
    page.reload()
    labels = page.locator("#history tbody td:nth-child(4)")
    expect(labels).to_have_text(["7", "0", "–"])
    rows = page.locator("#history tbody tr")
    expect(rows).to_have_class(["correct", "incorrect", "unlabelled"])
    page.locator("#history th").first.click()  # The image column does not sort.
    expect(page.locator("#history th[aria-sort]")).to_have_count(1)
    for key, order, expected in (
        ("true_digit", "ascending", ["–", "0", "7"]),
        ("true_digit", "descending", ["7", "0", "–"]),
        ("confidence", "ascending", ["7", "0", "–"]),  # All are equal, so the newest comes first.
        ("created_at", "descending", ["7", "0", "–"]),
        ("created_at", "ascending", ["–", "0", "7"]),
    ):
        page.click(f"[data-key={key}]")
        expect(labels).to_have_text(expected)
        heading = page.locator("#history th[aria-sort]")
        expect(heading).to_have_count(1)
        expect(heading).to_have_attribute("aria-sort", order)
        expect(heading.locator(f"[data-key={key}]")).to_have_count(1)


def test_next_page_of_predictions_is_loaded_on_demand(page: Page) -> None:
    for _ in range(51):
        add_seven(page)
    page.reload()
    expect(page.locator("#history tbody tr")).to_have_count(50)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#history tbody tr")).to_have_count(51)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


def test_older_predictions_are_searched_on_demand(page: Page) -> None:
    none_recent = {"predictions": [], "next": "01934b2c-0000-7000-8000-00000000000a"}
    page.route(LISTS, lambda route: route.fulfill(json=none_recent))
    page.select_option("[name=outcome]", "incorrect")
    expect(page.locator("#recent .empty")).to_contain_text("Show more to search older ones.")
    page.unroute(LISTS)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#recent .empty")).to_have_text("No predictions match these filters.")


@pytest.mark.usefixtures("failed_requests")
def test_response_to_older_filters_is_dropped(page: Page) -> None:
    predict_seven(page)
    lists = hold(page, LISTS)
    for digit in ("7", "4", "3"):
        page.select_option("[name=digit]", digit)
    older, failing, newest = (take(page, lists) for _ in range(3))
    finish(page, newest)
    finish(page, failing, "abort")
    finish(page, older)
    expect(page.locator("#history tbody tr")).to_have_count(0)
    expect(page.locator("#message")).to_have_text(SAVED)


def test_prediction_made_while_the_list_loads_is_kept(page: Page) -> None:
    add_seven(page)
    lists = hold(page, LISTS)
    page.reload()
    request = take(page, lists)
    response = request.fetch()
    predict_seven(page)
    request.fulfill(response=response)
    expect(page.locator("#history tbody tr")).to_have_count(2)


def test_new_prediction_is_added_if_it_matches_the_filters(page: Page) -> None:
    for name, value, count in (
        ("digit", "3", 0),
        ("digit", "7", 2),
        ("outcome", "incorrect", 0),
        ("outcome", "unlabelled", 4),
    ):
        with page.expect_response(LISTS):
            page.select_option(f"[name={name}]", value)
        page.keyboard.press("Escape")
        predict_seven(page)
        expect(page.locator("#history tbody tr")).to_have_count(count)
        expect(page.locator("#history")).to_be_visible(visible=count > 0)
        expect(page.locator("#recent .empty")).to_be_visible(visible=count == 0)


def test_accuracy_is_shown(page: Page) -> None:
    summary, rows = page.locator("#stats .accuracy"), page.locator("#stats .confusion tbody tr")
    expect(summary).to_contain_text("No predictions are labelled yet.")
    expect(page.locator("#stats .confusion")).to_be_hidden()
    for label in (1, 7):
        add_seven(page, label)
    page.reload()
    expect(summary).to_have_text("50.0 % of labelled predictions are correct (1 of 2).")
    expect(rows.nth(1)).to_have_text("110 %")  # The label 1, one prediction, none of them correct.
    expect(rows.nth(7)).to_have_text("71100 %")
    expect(rows.nth(1).locator("td").nth(7)).to_have_class("incorrect")
    expect(rows.nth(7).locator("td").nth(7)).to_have_class("correct")


def test_accuracy_by_model_version_is_shown(page: Page) -> None:
    for label in (1, 7):
        add_seven(page, label)
    page.reload()
    (version,) = page.request.get(f"{page.url}api/stats").json()["model_versions"]
    shown = page.locator("#stats .versions li")
    expect(shown).to_contain_text(f"Model {version['model_version']} since ")
    expect(shown).to_contain_text("50.0 % (1 of 2; 95 % interval: 9.5 % to 90.5 %)")


def test_first_day_of_a_version_does_not_depend_on_the_time_zone(
    visit: Callable[..., Page],
) -> None:
    page = visit(**PHONE, timezone_id="America/Los_Angeles")
    add_seven(page, 7)
    stats = page.request.get(f"{page.url}api/stats").json()
    stats["model_versions"][0]["since"] = "2026-09-01"
    page.route(STATS, lambda route: route.fulfill(json=stats))
    page.reload()
    expect(page.locator("#stats .versions li")).to_contain_text("since Sep 1, 2026")


def test_use_and_accuracy_by_day_and_version_are_drawn(page: Page) -> None:
    days = [
        {"day": "2026-10-01", "predictions": 9, "labelled": 0, "right": 0},
        {"day": "2026-11-01", "predictions": 10, "labelled": 4, "right": 3},
        {"day": "2026-11-02", "predictions": 5, "labelled": 0, "right": 0},
    ]
    stats = page.request.get(f"{page.url}api/stats").json()
    old = [{"day": "2026-08-01", "predictions": 3, "labelled": 0, "right": 0}, days[0]]
    versions = [{"model_version": "aa", "since": "2026-08-01", "labelled": 0, "days": old}]
    versions += [{"model_version": "bb", "since": "2026-11-01", "labelled": 0, "days": days[1:]}]
    page.route(STATS, lambda route: route.fulfill(json=stats | {"model_versions": versions}))
    page.reload()
    chart = page.locator("#stats .chart")
    heights = [bar.get_attribute("height") for bar in chart.locator("rect").all()]
    assert heights == ["81", "90", "45"]
    expect(chart.locator("circle")).to_have_attribute("cy", "22.5")
    expect(chart.locator("line title")).to_have_text("Model bb since 2026-11-01")


def test_lowest_test_accuracy_of_the_model_is_shown(page: Page) -> None:
    card = page.request.get(f"{page.url}api/model").json()
    drawings = [part["accuracy"] for name, part in card["figures"].items() if "drawings" in name]
    assert min(drawings) < max(drawings)
    expect(page.locator("#stats .model")).to_contain_text(f"{100 * min(drawings):.1f} % on draw")


# ---- Drawing ---------------------------------------------------------------------------------


def test_drawing_focuses_the_pad_and_captures_the_pointer(page: Page) -> None:
    page.locator("#undo").focus()
    box = box_of(page)
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    expect(page.locator("#pad")).to_be_focused()
    assert page.locator("#pad").evaluate("pad => pad.hasPointerCapture(1)")
    page.mouse.up()


def test_click_draws_a_dot_and_undo_removes_one_stroke(page: Page) -> None:
    draw_dot(page)
    dot = ink(page)
    assert dot > 0
    draw_seven(page)
    page.click("#undo")
    assert ink(page) == dot


def test_stroke_ends_where_it_leaves_the_pad(page: Page) -> None:
    box = box_of(page)
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] - 50, steps=5)
    inked = ink(page)
    page.mouse.move(box["x"] + 300, box["y"] + 300, steps=5)
    page.mouse.up()
    assert ink(page) == inked > 0


def test_screen_density_does_not_influence_the_model_input(visit: Callable[..., Page]) -> None:
    inputs = []
    for density in (1, 3):
        page = visit(**PHONE, device_scale_factor=density)
        draw_seven(page)
        with page.expect_response(PREDICTIONS) as response:
            page.click("#predict")
        inputs.append(np.frombuffer(base64.b64decode(response.value.json()["pixels"]), np.uint8))
        width = page.locator("#pad").evaluate("pad => pad.clientWidth")
        expect(page.locator("#pad")).to_have_js_property("width", density * width)
    assert np.abs(inputs[0].astype(int) - inputs[1]).max() <= 1


def test_drawing_survives_rotating_the_screen(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    draw_seven(page)
    share = ink(page) / box_of(page)["width"] ** 2
    page.set_viewport_size({"width": 844, "height": 390})
    pad = page.locator("#pad")
    expect(pad).to_have_js_property("width", pad.evaluate("pad => pad.clientWidth"))
    assert ink(page) / box_of(page)["width"] ** 2 == pytest.approx(share, rel=0.1)
    page.click("#predict")
    expect(page.locator("#message")).to_have_text(SAVED)


def test_ink_follows_the_color_scheme(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    draw_seven(page)
    for dark in (True, False):
        page.emulate_media(color_scheme="dark" if dark else "light")
        settle(page)
        pad = np.asarray(pixels_of(page, "#pad"))
        ink_color = pad[len(pad) // 5, len(pad) // 2, :3]
        assert ink_color.min() > 200 if dark else ink_color.max() < 60


def test_drawing_is_kept_while_another_page_is_shown_until_it_is_stored(page: Page) -> None:
    draw_seven(page)
    inked = ink(page)
    page.goto("data:text/html,another page")
    page.go_back()
    expect(page.locator("#answer")).to_have_text("7")
    assert ink(page) == inked
    page.click("#predict")
    expect(page.locator("#message")).to_have_text(SAVED)
    page.reload()
    assert ink(page) == 0


@pytest.mark.usefixtures("failed_requests")
def test_drawing_that_could_not_be_saved_is_kept(page: Page) -> None:
    page.route(PREDICTIONS, lambda route: route.abort())
    draw_seven(page)
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_contain_text("Unsaved: 1.")
    page.once("dialog", lambda dialog: dialog.accept())
    page.reload()
    assert ink(page) > 0


def test_page_works_without_storage(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    page.add_init_script("delete window.sessionStorage")
    page.reload()
    predict_seven(page)
    page.reload()
    expect(page.locator("#history tbody tr")).to_have_count(1)


def draw_line(page: Page, device: str, pressures: tuple[float, ...]) -> None:
    """Draw a line with a device that reports pressure."""
    box, session = box_of(page), page.context.new_cdp_session(page)
    steps = [("mousePressed", pressures[0]), *(("mouseMoved", force) for force in pressures)]
    for step, (type_, force) in enumerate([*steps, ("mouseReleased", 0)]):
        position = {"x": box["x"] + 50 + 60 * step, "y": box["y"] + 100}
        button = {"type": type_, "button": "left", "buttons": 1, "clickCount": 1, "force": force}
        session.send("Input.dispatchMouseEvent", {"pointerType": device} | button | position)


def test_pen_pressure_changes_the_line_width(page: Page) -> None:
    light, rising, heavy = (0.1, 0.1), (0.1, 0.9), (0.9, 0.9)
    inked = {}
    for device in ("pen", "mouse"):
        for pressures in (light, rising, heavy):
            page.keyboard.press("Escape")
            draw_line(page, device, pressures)
            inked[device, pressures] = ink(page)
    assert inked["pen", light] < 0.9 * inked["pen", rising] < 0.9**2 * inked["pen", heavy]
    assert inked["mouse", light] == inked["mouse", rising] == inked["mouse", heavy]


POINT = """(pad, [type, pointerType, pointerId, x, y, options]) => {
    const box = pad.getBoundingClientRect();
    const position = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
    const pointer = { pointerType, pointerId, isPrimary: true, ...position, ...options };
    pad.dispatchEvent(new PointerEvent(type, { bubbles: true, cancelable: true, ...pointer }));
}"""


def point(page: Page, type_: str, device: str, x: float, y: float, **options: Any) -> None:
    """Dispatch a pointer event; x and y are in units of the pad's edge."""
    id_ = ("mouse", "pen", "touch").index(device)
    page.locator("#pad").evaluate(POINT, [f"pointer{type_}", device, id_, x, y, options])


def test_pen_pressure_reaches_the_model(page: Page) -> None:
    widths = []
    for pressures in ((0.1, 0.1), (0.9, 0.9)):
        page.keyboard.press("Escape")
        draw_line(page, "pen", pressures)
        with page.expect_request(PREDICTIONS) as request:
            page.click("#predict")
        widths.append(request.value.post_data_json["strokes"][0][-1][2])
    assert widths[0] < 0.8 * widths[1]


def test_positions_between_two_frames_are_drawn(page: Page) -> None:
    point(page, "down", "pen", 0.2, 0.2)
    page.locator("#pad").evaluate("""pad => {
        const box = pad.getBoundingClientRect();
        const move = (x, y, coalescedEvents) => new PointerEvent("pointermove", {
            pointerType: "pen", pointerId: 1, isPrimary: true, bubbles: true,
            clientX: box.left + x * box.width, clientY: box.top + y * box.height, coalescedEvents,
        });
        pad.dispatchEvent(move(0.8, 0.8, [move(0.8, 0.2), move(0.8, 0.8)]));
    }""")
    point(page, "up", "pen", 0.8, 0.8)
    alpha = np.asarray(pixels_of(page, "#pad").getchannel("A"))
    assert alpha[round(0.5 * len(alpha)), round(0.8 * len(alpha))] > 0


def test_palm_does_not_draw(page: Page) -> None:
    inked = []
    for palm in ("absent", "before the pen", "after the pen"):
        page.keyboard.press("Escape")
        if palm == "before the pen":
            point(page, "down", "touch", 0.8, 0.8)
            point(page, "move", "touch", 0.8, 0.2)
        point(page, "down", "pen", 0.2, 0.2)
        if palm == "after the pen":
            point(page, "down", "touch", 0.8, 0.8)
            point(page, "move", "touch", 0.8, 0.2)
            point(page, "up", "touch", 0.8, 0.2)
        point(page, "move", "pen", 0.2, 0.6)
        point(page, "up", "pen", 0.2, 0.6)
        inked.append(ink(page))
    assert inked[0] == inked[1] == inked[2] > 0


def test_only_the_left_button_draws(page: Page) -> None:
    point(page, "down", "mouse", 0.5, 0.5, button=2)
    assert ink(page) == 0


def draw_touch(page: Page, **options: Any) -> None:
    """Draw a line with a finger."""
    point(page, "down", "touch", 0.2, 0.2, **options)
    for y in (0.4, 0.6):
        point(page, "move", "touch", 0.2, y, **options)


@pytest.mark.parametrize("rests_on_the_pad", [False, True])
def test_finger_draws_while_another_rests(page: Page, rests_on_the_pad: bool) -> None:
    draw_touch(page)
    expected = ink(page)
    point(page, "up", "touch", 0.2, 0.6)
    page.keyboard.press("Escape")
    if rests_on_the_pad:
        point(page, "down", "touch", 0.8, 0.9)
        point(page, "move", "touch", 0.81, 0.9)
        page.wait_for_timeout(300)
    draw_touch(page, pointerId=7, isPrimary=False)
    assert ink(page) == expected > 0


def test_tap_elsewhere_while_drawing_is_ignored(page: Page) -> None:
    draw_touch(page)
    inked = ink(page)
    page.wait_for_timeout(300)
    point(page, "down", "touch", 0.8, 0.8, pointerId=7, isPrimary=False)
    point(page, "up", "touch", 0.8, 0.8, pointerId=7, isPrimary=False)
    assert ink(page) == inked > 0
    point(page, "move", "touch", 0.2, 0.8)
    assert ink(page) > inked


def test_cancelled_stroke_is_removed(page: Page) -> None:
    point(page, "down", "touch", 0.5, 0.5)
    assert ink(page) > 0
    point(page, "cancel", "touch", 0.5, 0.5)
    assert ink(page) == 0


def touch(session: CDPSession, type_: str, *points: tuple[float, float]) -> None:
    """Touch the screen with one finger at each point, or lift all fingers if there is none."""
    touches = [{"x": x, "y": y, "id": id_} for id_, (x, y) in enumerate(points)]
    session.send("Input.dispatchTouchEvent", {"type": type_, "touchPoints": touches})


def swipe_up(page: Page, selector: str) -> None:
    """Swipe up with one finger that starts on an element."""
    session, box = page.context.new_cdp_session(page), box_of(page, selector)
    x, y = box["x"] + 100, box["y"] + box["height"] / 2
    touch(session, "touchStart", (x, y))
    for distance in (40, 80, 120, 160):
        touch(session, "touchMove", (x, y - distance))
    touch(session, "touchEnd")


def test_finger_draws_on_the_pad_and_scrolls_outside(page: Page) -> None:
    swipe_up(page, "#pad")
    settle(page)
    assert page.evaluate("scrollY") == 0
    inked = ink(page)
    swipe_up(page, "#predict")
    page.wait_for_function("scrollY > 0")
    assert ink(page) == inked > 0


def test_two_fingers_do_not_draw(page: Page) -> None:
    session = page.context.new_cdp_session(page)
    touch(session, "touchStart", (50, 150))
    touch(session, "touchMove", (150, 250))
    touch(session, "touchEnd")
    inked = ink(page)
    touch(session, "touchStart", (200, 150), (100, 300))
    touch(session, "touchMove", (200, 190), (100, 260))
    touch(session, "touchEnd")
    assert ink(page) == inked > 0


TOUCH_MOVE = """(pad, [onPad, elsewhere]) => {
    const touch = (target, identifier) => new Touch({ identifier, target });
    const targetTouches = Array.from({ length: onPad }, (_, finger) => touch(pad, finger));
    const others = Array.from({ length: elsewhere }, (_, i) => touch(document.body, 9 + i));
    const touches = [...targetTouches, ...others];
    const event = new TouchEvent("touchmove", { cancelable: true, touches, targetTouches });
    pad.dispatchEvent(event);
    return event.defaultPrevented;
}"""


def test_two_fingers_zoom_the_page(page: Page) -> None:
    pad = page.locator("#pad")
    expect(pad).to_have_css("touch-action", "pinch-zoom")
    assert pad.evaluate(TOUCH_MOVE, [1, 0])
    assert pad.evaluate(TOUCH_MOVE, [1, 1])
    assert not pad.evaluate(TOUCH_MOVE, [2, 0])


def gesture(seed: int) -> list[Any]:
    """Return random events of a mouse, a pen and three fingers, all of which are lifted at the end.

    An event is a type and its properties; x and y are in units of the pad's edge.
    """
    random = Random(seed)
    pointers = {11: "mouse", 12: "pen", 13: "touch", 14: "touch", 15: "touch"}
    others = ["#undo", "#clear", "#predict", "resize", "blur"]
    events: list[Any] = []

    def add(type_: str, id_: int) -> None:
        x, y = (random.uniform(-0.3, 1.3) for _ in range(2))
        if type_ == "pointerdown":
            x, y = (min(max(value, 0), 1) for value in (x, y))
        button = {"button": random.choices([0, 2], [9, 1])[0], "pressure": random.random()}
        pointer = {"pointerId": id_, "pointerType": pointers[id_], "wait": random.uniform(0, 150)}
        events.append([type_, {"x": x, "y": y, **button, **pointer}])

    types = ["down", "move", "up", "cancel", "leave"]
    for _ in range(random.randint(5, 40)):
        if random.random() < 0.15:
            events.append([random.choice(others), {"width": random.randint(50, 360)}])
        else:
            type_ = random.choices(types, [5, 10, 3, 1, 1])[0]
            add(f"pointer{type_}", random.choice([*pointers]))
    for id_ in pointers:
        add(random.choice(["pointerup", "pointercancel"]), id_)
        add("lostpointercapture", id_)
    return events


PERFORM = """async (pad, events) => {
    const resize = async (width) => {
        pad.style.width = width;
        for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
    };
    let time = performance.now();
    for (const [type, { x, y, wait, width, ...pointer }] of events) {
        if (type === "resize") await resize(`${width}px`);
        else if (type === "blur") window.dispatchEvent(new Event("blur"));
        else if (type.startsWith("#")) document.querySelector(type).click();
        else {
            const box = pad.getBoundingClientRect();
            const [clientX, clientY] = [box.left + x * box.width, box.top + y * box.height];
            const options = { bubbles: true, cancelable: true, clientX, clientY, ...pointer };
            const event = new PointerEvent(type, options);
            time += wait;
            Object.defineProperty(event, "timeStamp", { value: time });
            const isInside = x >= 0 && x <= 1 && y >= 0 && y <= 1;
            (isInside ? pad : document.body).dispatchEvent(event);
        }
    }
    await resize("");
}"""


def test_any_gestures_leave_a_pad_that_works(page: Page, pytestconfig: pytest.Config) -> None:
    page.select_option("[name=digit]", "0")  # A long table of recent predictions takes time.
    pad = page.locator("#pad")
    width = pad.evaluate("pad => pad.width")
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request.post_data_json))
    for seed in range(pytestconfig.getoption("--gestures")):
        pad.evaluate(PERFORM, gesture(seed))
        expect(pad).to_have_js_property("width", width)
        before = pixels_of(page, "#pad")
        page.mouse.click(100, 200)
        page.keyboard.press("Control+z")
        assert pixels_of(page, "#pad") == before, seed
        page.keyboard.press("Escape")
        draw_seven(page)
        page.keyboard.press("Enter")
        expect(page.locator("#message")).to_have_text(SAVED)
        strokes = [stroke for body in sent if body for stroke in body["strokes"]]
        assert strokes
        values = [value for stroke in strokes for point in stroke for value in point]
        assert all(0 <= value <= 1 for value in values), seed
        sent.clear()
        page.keyboard.press("Escape")


# ---- Review of labels ------------------------------------------------------------------------


@pytest.fixture
def review(page: Page, server: Server) -> Page:
    """Return the operator's page, without a token, with two labels to review: 1 and 7."""
    for label in (7, 1):
        add_seven(page, label)
    page.goto(f"{server.url}/review")
    page.evaluate("sessionStorage.clear()")
    page.reload()
    return page


def sign_in(page: Page, token: str = TOKEN) -> None:
    """Enter the operator's token."""
    page.fill("#token", token)
    page.keyboard.press("Enter")


def wait_for_reviews(page: Page, *expected: tuple[int | None, str | None]) -> None:
    """Wait until the predictions, newest first, have these labels and reviews."""
    url = page.url.replace("/digits", "").replace("/review", "/api/predictions")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for _ in range(100 * TIMEOUT_S):
        rows = page.request.get(url, headers=headers).json()["predictions"]
        found = tuple((row["true_digit"], row["review"]) for row in rows)
        if found == expected:
            return
        page.wait_for_timeout(10)
    pytest.fail(f"found {found}")


def test_labels_are_reviewed_by_keyboard(review: Page) -> None:
    question, progress = review.locator("#question"), review.locator("#progress")
    sign_in(review)
    expect(question).to_contain_text("Label 1, prediction 7 (")
    for _ in range(2):
        review.keyboard.down("x")  # A key that is held down repeats.
    review.keyboard.up("x")
    expect(question).to_contain_text("Label 7, prediction 7 (")
    review.keyboard.press("u")
    expect(question).to_contain_text("Label 1, prediction 7 (")
    review.keyboard.press("7")
    review.keyboard.press("x")
    expect(question).to_have_text("There is nothing left to review.")
    expect(progress).to_have_text("Reviewed: 2. Random sample: 1 of 1 labels were wrong.")
    wait_for_reviews(review, (7, "accepted"), (None, "rejected"))


def test_uncertain_predictions_are_no_part_of_the_random_sample(review: Page) -> None:
    def answer(route: Route) -> None:
        page = route.fetch().json()
        uncertain = [prediction | {"uncertain": True} for prediction in page["predictions"]]
        route.fulfill(json=page | {"predictions": uncertain})

    review.route("**/api/predictions?order=review*", answer)
    sign_in(review)
    for label in (1, 7):
        expect(review.locator("#question")).to_contain_text(f"Label {label}, prediction 7 (")
        review.keyboard.press("7")
    expect(review.locator("#progress")).to_have_text("Reviewed: 2.")


def test_label_is_reviewed_by_touch(review: Page) -> None:
    sign_in(review)
    review.tap('#digits [data-digit="3"]')
    review.tap('#digits [data-digit=""]')
    wait_for_reviews(review, (3, "accepted"), (None, "rejected"))
    review.tap("#undo")
    wait_for_reviews(review, (3, "accepted"), (7, None))


def test_next_label_is_shown_before_the_decision_is_saved(review: Page) -> None:
    sign_in(review)
    saves = hold(review, LABELS)
    expect(review.locator("#question")).to_contain_text("Label 1")
    review.keyboard.press("7")
    expect(review.locator("#question")).to_contain_text("Label 7")
    review.keyboard.press("7")
    expect(review.locator("#question")).to_have_text("There is nothing left to review.")
    wait_for_reviews(review, (1, None), (7, None))
    for _ in range(2):
        finish(review, take(review, saves))
    wait_for_reviews(review, (7, "accepted"), (7, "accepted"))


def test_further_labels_follow_the_first_hundred(review: Page) -> None:
    review.goto(review.url.replace("/review", "/"))
    for _ in range(103):
        add_seven(review, 7)
    review.goto(f"{review.url}review")
    sign_in(review)
    for number in range(105):
        expect(review.locator("#progress")).to_have_text(re.compile(rf"Reviewed: {number}\."))
        expect(review.locator("#picture")).to_be_visible()
        review.keyboard.press("7")
    expect(review.locator("#question")).to_have_text("There is nothing left to review.")
    wait_for_reviews(review, *100 * [(7, "accepted")])


@pytest.mark.usefixtures("failed_requests")
def test_failed_decision_is_shown_and_retried(review: Page) -> None:
    sign_in(review)
    expect(review.locator("#question")).to_contain_text("Label 1")
    review.route(LABELS, lambda route: route.abort())
    review.keyboard.press("7")
    expect(review.locator("#message")).to_have_text(f"Unsaved: 1. {UNREACHABLE}")
    review.unroute(LABELS)
    expect(review.locator("#message")).to_have_text("")
    wait_for_reviews(review, (7, "accepted"), (7, None))


@pytest.mark.usefixtures("failed_requests")
def test_token_is_asked_for_until_it_is_right_and_kept_for_the_tab(
    review: Page, visit: Callable[..., Page]
) -> None:
    expect(review.locator("#token")).to_have_attribute("type", "password")
    sign_in(review, "ключ")
    expect(review.locator("#message")).to_contain_text("token is wrong")
    expect(review.locator("#review")).to_be_hidden()
    sign_in(review)
    expect(review.locator("#question")).to_contain_text("Label 1")
    review.reload()
    expect(review.locator("#question")).to_contain_text("Label 1")
    expect(review.locator("#sign-in")).to_be_hidden()
    assert review.evaluate("localStorage.length") == 0
    other = visit()
    other.goto(review.url)
    expect(other.locator("#sign-in")).to_be_visible()


def test_review_works_below_a_path_and_when_nobody_else_sees_predictions(
    browser: Browser, tmp_path: Path
) -> None:
    settings = {"TRUSTED_PROXIES": "1", "HISTORY": "nobody", "OPERATOR_TOKEN": TOKEN}
    with Server(tmp_path, None, WEB_CONCURRENCY="1", **settings) as server:
        page = browser.new_page()
        page.goto(server.url, wait_until="networkidle")
        add_seven(page, 1)
        page.route("**/digits/**", strip_prefix)
        paths: list[str] = []
        page.on("request", lambda request: paths.append(request.url.removeprefix(server.url)))
        page.goto(f"{server.url}/digits/review")
        sign_in(page)
        expect(page.locator("#question")).to_contain_text("Label 1, prediction 7 (")
        page.keyboard.press("7")
        wait_for_reviews(page, (7, "accepted"))
        assert all(path.startswith("/digits/") for path in paths)
        page.close()


def test_review_is_accessible_and_fits_a_small_phone(review: Page) -> None:
    review.set_viewport_size({"width": 320, "height": 640})
    assert Axe().run(review).response["violations"] == []
    sign_in(review)
    expect(review.locator("#picture")).to_be_visible()
    for dark in (False, True):
        review.emulate_media(color_scheme="dark" if dark else "light")
        assert Axe().run(review).response["violations"] == []
    assert review.evaluate("document.documentElement.scrollWidth") <= 320
    box = box_of(review, "#digits")
    assert box["y"] + box["height"] <= 640


# ---- Layout and accessibility ----------------------------------------------------------------


def test_pad_and_buttons_fit_on_a_phone_screen(page: Page) -> None:
    for name in ("#pad", "#predict", "#clear"):
        box = box_of(page, name)
        assert box["y"] + box["height"] <= 844
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_page_fits_the_width_of_a_small_phone(visit: Callable[..., Page]) -> None:
    page = visit(viewport={"width": 320, "height": 640}, has_touch=True)
    predict_seven(page)
    page.keyboard.press("7")
    expect(page.locator("#stats .confusion")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert box_of(page, '#feedback [data-digit="7"]')["width"] >= 44


@pytest.mark.parametrize(("width", "height"), [(390, 844), (320, 640)])
def test_message_is_in_view_wherever_the_visitor_is(
    visit: Callable[..., Page], width: int, height: int
) -> None:
    page = visit(viewport={"width": width, "height": height}, has_touch=True)
    message = page.locator("#message")
    predict_seven(page)
    expect(message).to_be_in_viewport(ratio=1)
    for selector, text in (
        ('#feedback [data-digit="7"]', "Label saved: 7."),
        ("#history tbody tr", "Showing a saved prediction."),
        ("#delete", "Prediction deleted."),
        ("#delete-mine", "This browser has stored no predictions."),
    ):
        page.click(selector)
        expect(message).to_have_text(text)
        expect(message).to_be_in_viewport(ratio=1)
        expect(page.locator(selector)).to_be_in_viewport()


def color_of(page: Page, selector: str) -> tuple[int, ...]:
    """Return the color of an element, as the screen shows it beside any text."""
    shot = Image.open(io.BytesIO(page.locator(selector).first.screenshot())).convert("RGB")
    return shot.getpixel((shot.width // 4, shot.height // 4))  # type: ignore[return-value]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_visible_in_forced_colors(visit: Callable[..., Page], scheme: str) -> None:
    page = visit(**PHONE, forced_colors="active", color_scheme=scheme)
    predict_seven(page)
    page.keyboard.press("7")
    expect(page.locator("#message")).to_have_text("Label saved: 7.")
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    background = tuple(int(level) for level in re.findall(r"\d+", color))
    for selector in (
        "#confidence .bar span",
        "#probabilities .winner .bar span",
        "#probabilities .bar",
        '#feedback [aria-pressed="true"]',
    ):
        assert color_of(page, selector) != background
    pad = np.asarray(pixels_of(page, "#pad"))
    assert tuple(pad[len(pad) // 5, len(pad) // 2, :3]) != background


def test_page_is_accessible(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    expect(page.locator("#stats .model")).to_contain_text("MNIST")
    expect(page.locator("#answer")).to_have_attribute("aria-live", "off")  # for previews
    assert Axe().run(page).response["violations"] == []
    predict_seven(page)
    page.keyboard.press("7")
    expect(page.locator("#stats .confusion")).to_be_visible()
    for dark in (False, True):
        page.emulate_media(color_scheme="dark" if dark else "light")
        assert Axe().run(page).response["violations"] == []
