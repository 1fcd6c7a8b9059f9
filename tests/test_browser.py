"""The page in a real browser, as people use it: mouse, fingers, keyboard, large and small."""

import base64
import re
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import (
    Browser,
    CDPSession,
    ConsoleMessage,
    FloatRect,
    Page,
    Route,
    expect,
    sync_playwright,
)

from tests.conftest import Server
from tests.pictures import SEVEN, encoded, seven
from webapp.preprocess import decode

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
TOKEN = "of-the-operator"
PREDICT = "**/api/predictions"
PREVIEW = "**/api/predictions?store=no"
LIST = "**/api/predictions?limit=*"
LABEL = "**/api/predictions/*"
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True}


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Return a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return one running service for all tests of the page: starting one takes seconds."""
    data_dir = tmp_path_factory.mktemp("page")
    server = Server(data_dir, WEB_CONCURRENCY="2", OPERATOR_TOKEN=TOKEN)
    server.wait_until_ready()
    yield server
    server.stop()


@pytest.fixture
def server(shared_server: Server) -> Server:
    """Return the running service, without predictions."""
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
    """Return what the page prints, which has to be nothing."""
    printed: list[str] = []
    yield printed
    assert printed == []


@pytest.fixture
def failed_requests(console: list[str]) -> Iterator[None]:
    """Let the browser itself print which requests failed."""
    yield
    assert {line.partition(":")[0] for line in console} == {"Failed to load resource"}
    console.clear()


@pytest.fixture
def visit(browser: Browser, server: Server, console: list[str]) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the page on a device of its own."""
    contexts = []

    def visit(**device: Any) -> Page:
        contexts.append(browser.new_context(**device))
        page = contexts[-1].new_page()
        page.on("console", lambda message: console.append(message.text))
        page.on("pageerror", lambda error: console.append(str(error)))
        page.goto(server.url)
        return page

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def phone(browser: Browser) -> Iterator[Page]:
    """Return one tab for most tests: a new one takes a second of computing."""
    context = browser.new_context(**PHONE)
    yield context.new_page()
    context.close()


@pytest.fixture
def page(phone: Page, server: Server, console: list[str]) -> Iterator[Page]:
    """Return the page on a phone, as a new visitor sees it."""

    def record(entry: Any) -> None:
        console.append(entry.text if isinstance(entry, ConsoleMessage) else str(entry))

    phone.context.clear_cookies()
    phone.on("console", record)
    phone.on("pageerror", record)
    phone.goto(server.url)
    yield phone
    phone.unroute_all(behavior="ignoreErrors")
    phone.context.set_offline(False)
    phone.goto("about:blank")
    phone.remove_listener("console", record)
    phone.remove_listener("pageerror", record)


def box_of(page: Page, selector: str = "#pad") -> FloatRect:
    """Return where an element is."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box


def draw_seven(page: Page) -> None:
    """Draw a 7 with the mouse."""
    box = box_of(page)
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in SEVEN]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=3)
    page.mouse.up()


def draw_dot(page: Page) -> None:
    """Tap on the pad, near a corner."""
    page.click("#pad", position={"x": 40, "y": 300})


def pixels_of(page: Page, selector: str) -> Image.Image:
    """Return what a canvas shows, as RGBA."""
    url = page.locator(selector).first.evaluate("canvas => canvas.toDataURL()")
    return decode(base64.b64decode(url.partition(",")[2])).convert("RGBA")


def ink(page: Page) -> int:
    """Return how many of the pad's pixels are inked."""
    return int(np.count_nonzero(np.asarray(pixels_of(page, "#pad").getchannel("A"))))


def hold(page: Page, url: str) -> list[Route]:
    """Hold requests back; return the list that they are added to."""
    held: list[Route] = []
    page.route(url, lambda route: held.append(route))
    return held


def take(page: Page, held: list[Route]) -> Route:
    """Wait until a request is held back, and take it from the list."""
    for _ in range(500):
        if held:
            return held.pop(0)
        page.wait_for_timeout(10)
    pytest.fail("no request was sent")


def settle(page: Page) -> None:
    """Give the page time for what it must not do."""
    page.wait_for_timeout(100)


def test_digit_is_drawn_read_labelled_and_recorded(page: Page, server: Server) -> None:
    answer, one = page.locator("#answer"), page.locator('#feedback [data-digit="1"]')
    expect(one).to_be_disabled()
    draw_seven(page)
    page.click("#predict")
    expect(answer).to_have_text("7")
    expect(page.locator("#probabilities li.winner")).to_contain_text("7")
    expect(page.locator("#confidence")).to_contain_text("%")
    one.click()
    expect(page.locator("#message")).to_contain_text("1")
    row = page.locator("#history tbody tr").first
    expect(row.locator("td").nth(1)).to_have_text("7")
    expect(row.locator("td").nth(3)).to_have_text("1")

    (stored,) = page.request.get(f"{server.url}/api/predictions").json()["predictions"]
    assert stored["id"] == answer.get_attribute("data-prediction-id")
    assert (stored["predicted_digit"], stored["true_digit"]) == (7, 1)


def predict_seven(page: Page) -> None:
    """Draw a 7, and have it read and recorded."""
    draw_seven(page)
    page.click("#predict")
    expect(page.locator("#message")).to_have_text("Read as a 7, and recorded.")


def test_bars_follow_the_drawing_and_record_nothing(page: Page) -> None:
    draw_seven(page)
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator("#probabilities li.winner")).to_contain_text("7")
    expect(page.locator('#feedback [data-digit="7"]')).to_be_disabled()
    assert page.locator("#answer").get_attribute("data-prediction-id") is None
    page.reload()
    expect(page.locator("#record .empty")).to_be_visible()


def test_previews_are_paced_and_sent_one_at_a_time(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    page.clock.install()
    page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=1))
    previews = hold(page, PREVIEW)
    draw_seven(page)
    preview = take(page, previews)
    settle(page)
    assert previews == []
    preview.continue_()
    expect(page.locator("#answer")).not_to_have_text("")
    settle(page)
    assert previews == []
    page.clock.run_for(60)
    take(page, previews).continue_()
    expect(page.locator("#answer")).to_have_text("7")
    page.clock.run_for(60)
    settle(page)
    assert previews == []  # the drawing is still the same


def test_older_preview_is_dropped(page: Page) -> None:
    previews = hold(page, PREVIEW)
    draw_seven(page)
    page.keyboard.press("Escape")
    take(page, previews).continue_()
    settle(page)
    expect(page.locator("#answer")).to_have_text("")
    assert previews == []  # nor is an empty pad read


@pytest.mark.parametrize("outcome", ["continue_", "abort"])
def test_preview_never_replaces_a_recorded_answer(
    page: Page, outcome: str, console: list[str]
) -> None:
    previews = hold(page, PREVIEW)
    predict_seven(page)
    getattr(take(page, previews), outcome)()
    settle(page)
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator("#answer")).to_have_attribute("data-prediction-id", re.compile("."))
    assert previews == []  # a recorded drawing needs none
    console.clear()


def test_failed_preview_takes_the_answer_away_and_is_told(
    page: Page, failed_requests: None
) -> None:
    draw_seven(page)
    expect(page.locator("#answer")).to_have_text("7")
    page.context.set_offline(True)
    draw_dot(page)
    expect(page.locator("#answer")).to_have_text("")
    expect(page.locator("#message")).to_contain_text("cannot be reached")


def test_no_previews_are_sent_from_a_hidden_tab(page: Page) -> None:
    hide = (
        "hidden => Object.defineProperty(document, 'hidden', {configurable: true, value: hidden})"
    )
    previews = hold(page, PREVIEW)
    page.evaluate(hide, True)
    draw_seven(page)
    settle(page)
    assert previews == []
    page.evaluate(hide, False)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    take(page, previews).continue_()
    expect(page.locator("#answer")).to_have_text("7")


def test_refused_previews_pause_in_silence(
    visit: Callable[..., Page], failed_requests: None
) -> None:
    page = visit(**PHONE)
    page.clock.install()
    previews = hold(page, PREVIEW)
    draw_seven(page)
    take(page, previews).fulfill(
        status=429, headers={"Retry-After": "30"}, json={"detail": "Slow down."}
    )
    draw_dot(page)
    settle(page)
    assert previews == []
    expect(page.locator("#message")).to_have_text("")
    page.clock.fast_forward(30_000)
    take(page, previews)


def test_label_is_kept_changed_and_taken_back_by_key(page: Page) -> None:
    message, really = page.locator("#message"), page.locator("#history tbody td").nth(3)
    page.keyboard.press("5")
    expect(message).to_have_text("")
    predict_seven(page)
    for key, text, label in (
        ("8", "Kept: it was an 8.", "8"),
        ("7", "Kept: it was a 7.", "7"),
        ("7", "Label taken back.", "–"),
    ):
        page.keyboard.press(key)
        expect(message).to_have_text(text)
        expect(really).to_have_text(label)


def test_label_is_for_what_was_shown_when_it_was_given(page: Page) -> None:
    for _ in range(2):
        page.keyboard.press("Escape")
        predict_seven(page)
    rows = page.locator("#history tbody tr")
    labels = hold(page, LABEL)
    page.keyboard.down("7")
    page.keyboard.down("7")  # held: the same again
    page.keyboard.up("7")
    page.keyboard.press("1")
    rows.nth(1).click()
    for _ in range(2):
        take(page, labels).continue_()
    expect(rows.nth(0).locator("td").nth(3)).to_have_text("1")
    expect(rows.nth(1).locator("td").nth(3)).to_have_text("–")
    expect(page.locator("#message")).to_have_text("Shown again from the record.")
    expect(page.locator('#feedback [aria-pressed="true"]')).to_have_count(0)


def test_labels_are_sent_one_after_the_other(page: Page) -> None:
    predict_seven(page)
    labels = hold(page, LABEL)
    page.keyboard.press("8")
    page.keyboard.press("1")
    first = take(page, labels)
    settle(page)
    assert labels == []
    first.continue_()
    take(page, labels).continue_()
    expect(page.locator("#message")).to_have_text("Kept: it was a 1.")


def test_label_that_failed_is_tried_again(page: Page, failed_requests: None) -> None:
    predict_seven(page)
    labels = hold(page, LABEL)
    page.keyboard.press("8")
    take(page, labels).abort()
    expect(page.locator("#message")).to_contain_text("cannot be reached")
    page.click("#retry")
    take(page, labels).continue_()
    expect(page.locator("#message")).to_have_text("Kept: it was an 8.")
    expect(page.locator("#retry")).to_be_hidden()


def test_kept_label_is_told_though_the_counts_fail(page: Page, failed_requests: None) -> None:
    predict_seven(page)
    page.route("**/api/stats", lambda route: route.abort())
    with page.expect_event("requestfailed"):
        page.keyboard.press("8")
    settle(page)
    expect(page.locator("#message")).to_have_text("Kept: it was an 8.")


def test_label_by_another_visitor_is_refused_in_words(
    visit: Callable[..., Page], failed_requests: None
) -> None:
    predict_seven(visit())
    page = visit()
    page.locator("#history tbody tr").click()
    with page.expect_response(LABEL) as answer:
        page.keyboard.press("8")
    expect(page.locator("#message")).to_have_text(answer.value.json()["detail"])
    expect(page.locator("#history tbody td").nth(3)).to_have_text("–")


def test_label_made_in_another_tab_is_shown(page: Page) -> None:
    predict_seven(page)
    other = page.context.new_page()
    other.goto(page.url)
    other.locator("#history tbody tr").click()
    other.keyboard.press("8")
    expect(other.locator("#message")).to_have_text("Kept: it was an 8.")
    other.close()
    page.select_option("[name=verdict]", "wrong")
    expect(page.locator("#history tbody td").nth(3)).to_have_text("8")
    page.locator("#history tbody tr").click()
    page.keyboard.press("8")
    expect(page.locator("#message")).to_have_text("Label taken back.")


def test_keys_meant_for_something_else_do_nothing(page: Page) -> None:
    predict_seven(page)
    inked = ink(page)
    labels = hold(page, LABEL)
    for key in ("Control+5", "Alt+5", "z"):
        page.keyboard.press(key)
    page.locator("[name=digit]").focus()
    page.keyboard.press("7")
    expect(page.locator("[name=digit]")).to_have_value("7")
    settle(page)
    assert labels == []
    assert ink(page) == inked
    page.locator("#undo").focus()
    page.keyboard.press("Enter")  # presses the button, and does not predict
    expect(page.locator("#answer")).to_have_text("")
    expect(page.locator("#message")).to_have_text("")


def test_drawing_is_recorded_once(page: Page) -> None:
    for _ in range(2):
        predict_seven(page)
        page.click("#predict")
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
    draw_seven(page)
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator("#history tbody tr")).to_have_count(2)


def test_stroke_takes_the_recorded_answer_away(page: Page) -> None:
    predict_seven(page)
    previews = hold(page, PREVIEW)
    draw_dot(page)
    take(page, previews)
    assert page.locator("#answer").get_attribute("data-prediction-id") is None
    expect(page.locator('#feedback [data-digit="7"]')).to_be_disabled()
    expect(page.locator("#message")).to_have_text("")


def test_stroke_goes_on_after_predict(page: Page) -> None:
    box = box_of(page)
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.keyboard.press("Enter")
    expect(page.locator("#message")).not_to_be_empty()
    page.mouse.move(box["x"] + 50, box["y"] + 150)
    expect(page.locator("#message")).to_have_text("")
    assert page.locator("#answer").get_attribute("data-prediction-id") is None


@pytest.mark.parametrize("outcome", ["continue_", "abort"])
def test_older_answer_is_recorded_and_not_shown(
    page: Page, outcome: str, console: list[str]
) -> None:
    predictions = hold(page, PREDICT)
    draw_seven(page)
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    getattr(take(page, predictions), outcome)()
    expect(page.locator("#history tbody tr")).to_have_count(1 if outcome == "continue_" else 0)
    settle(page)
    expect(page.locator("#answer")).to_have_text("")
    expect(page.locator("#message")).to_have_text("")
    console.clear()


def test_answer_that_was_not_recorded_can_be_tried_again(page: Page) -> None:
    page.route(PREDICT, lambda route: route.continue_(url=f"{route.request.url}?store=no"))
    draw_seven(page)
    page.click("#predict")
    expect(page.locator("#message")).to_contain_text("not recorded")
    expect(page.locator("#history")).to_be_hidden()
    page.unroute(PREDICT)
    page.click("#retry")
    expect(page.locator("#message")).to_have_text("Read as a 7, and recorded.")


def test_unsure_answer_is_told_as_such(page: Page) -> None:
    draw_dot(page)
    page.click("#predict")
    expect(page.locator("#message")).to_contain_text("Not sure.")
    expect(page.locator("#confidence")).to_have_attribute("data-level", "low")


def test_drawing_can_be_predicted_after_another_was_shown(page: Page) -> None:
    predict_seven(page)
    page.locator("#history tbody tr").click()
    page.click("#predict")
    expect(page.locator("#history tbody tr")).to_have_count(2)


def test_request_that_hangs_ends_and_can_be_tried_again(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    page.clock.install()
    predictions = hold(page, PREDICT)
    draw_seven(page)
    page.click("#predict")
    take(page, predictions)
    page.clock.fast_forward(15_000)
    expect(page.locator("#message")).to_contain_text("cannot be reached")
    page.click("#retry")
    take(page, predictions).continue_()
    expect(page.locator("#message")).to_have_text("Read as a 7, and recorded.")


@pytest.mark.parametrize("status", [200, 502])
def test_answer_that_is_not_the_services_is_told_in_words(
    page: Page, status: int, console: list[str]
) -> None:
    page.route(PREDICT, lambda route: route.fulfill(status=status, body="<h1>Sign in</h1>"))
    draw_seven(page)
    page.click("#predict")
    expect(page.locator("#message")).to_contain_text("The service could not answer.")
    expect(page.locator("#retry")).to_be_visible()
    console.clear()


def test_refusal_is_told_in_the_services_words(page: Page, failed_requests: None) -> None:
    refusal = {"detail": "Too many requests: try again in 3 s."}
    page.route(PREDICT, lambda route: route.fulfill(status=429, json=refusal))
    draw_seven(page)
    page.click("#predict")
    expect(page.locator("#message")).to_have_text(refusal["detail"])


def test_parts_that_failed_to_load_are_tried_again(page: Page, failed_requests: None) -> None:
    predict_seven(page)
    for url, part in (
        (LIST, "#history"),
        ("**/api/stats", ".accuracy"),
        ("**/api/model", ".model"),
    ):
        page.route(url, lambda route: route.abort())
        page.reload()
        page.click("#retry")
        page.unroute(url)
        page.click("#retry")
        expect(page.locator(part).first).not_to_be_empty()


def test_result_shows_what_the_model_answered(page: Page) -> None:
    draw_seven(page)
    with page.expect_response(PREDICT) as response:
        page.click("#predict")
    answer = response.value.json()
    shares = [f"{100 * share:.1f}" for share in answer["probabilities"]]
    for digit, row in enumerate(page.locator("#probabilities li").all()):
        expect(row.locator(".value")).to_have_text(f"{shares[digit]} %")
        width = row.locator(".bar span").evaluate("bar => parseFloat(bar.style.width)")
        assert f"{width:.1f}" == shares[digit]
    sure = page.locator("#confidence")
    expect(sure).to_contain_text(f"{shares[7]} %")
    expect(sure).to_have_attribute("data-level", "high")
    width = sure.locator(".bar span").evaluate("bar => parseFloat(bar.style.width)")
    assert f"{width:.1f}" == shares[7]
    seen = pixels_of(page, "#seen").convert("L")
    assert (255 - np.asarray(seen)).tobytes() == base64.b64decode(answer["pixels"])
    assert pixels_of(page, "#history canvas").tobytes() == pixels_of(page, "#seen").tobytes()


def test_drawings_of_a_slow_first_visit_are_the_same_persons(visit: Callable[..., Page]) -> None:
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
    expect(page.locator("#message")).to_have_text("Kept: it was a 7.")


def test_all_can_be_done_from_the_keyboard(page: Page) -> None:
    page.locator("#file").set_input_files(picture_file())
    page.locator("#file").focus()
    for expected in ("pad", "predict", "undo", "clear"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == expected
    page.locator("#pad").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_contain_text("recorded")
    page.keyboard.press("7")
    expect(page.locator("#stats .accuracy")).to_contain_text("1 of 1")
    page.keyboard.press("Escape")
    expect(page.locator("#answer")).to_have_text("")
    assert ink(page) == 0


def picture_file(edge: int = 280) -> Any:
    """Return a picture of a 7 as a person would choose it."""
    return {"name": "seven.png", "mimeType": "image/png", "buffer": encoded(seven(edge))}


GIVE = """([event, body]) => {
    const files = new DataTransfer();
    const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
    files.items.add(new File([bytes], "seven", { type: "image/png" }));
    const data = { clipboardData: files, dataTransfer: files, bubbles: true };
    document.body.dispatchEvent(
        event === "paste" ? new ClipboardEvent(event, data) : new DragEvent(event, data),
    );
}"""


def test_picture_is_pasted_dropped_or_chosen(page: Page) -> None:
    answer = page.locator("#answer")
    body = base64.b64encode(encoded(seven())).decode()
    for event in ("paste", "drop"):
        page.evaluate(GIVE, [event, body])
        expect(answer).to_have_text("7")
        page.keyboard.press("Control+z")
        expect(answer).to_have_text("")
    page.locator("#file").set_input_files(picture_file(edge=2500))  # more than the service takes
    expect(answer).to_have_text("7")
    page.evaluate(GIVE, ["drop", base64.b64encode(b"no picture").decode()])
    expect(page.locator("#message")).to_contain_text("no picture")
    expect(answer).to_have_text("7")


def test_same_file_can_be_chosen_again(page: Page) -> None:
    page.locator("#file").set_input_files(picture_file())
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator("#file")).to_have_value("")  # or the browser would see no change


def test_page_takes_what_is_dropped_and_lets_text_be_pasted(page: Page) -> None:
    is_taken = """(type) => !document.body.dispatchEvent(new DragEvent(
        type, {dataTransfer: new DataTransfer(), bubbles: true, cancelable: true}))"""
    assert page.evaluate(is_taken, "dragover")
    assert page.evaluate(is_taken, "drop")
    page.evaluate(
        """document.body.dispatchEvent(new ClipboardEvent(
            "paste", {clipboardData: new DataTransfer(), bubbles: true}))"""
    )
    settle(page)
    expect(page.locator("#message")).to_have_text("")


def test_picture_and_strokes_replace_each_other(page: Page) -> None:
    draw_seven(page)
    inked = ink(page)
    wide = Image.new("RGB", (1000, 500), "white")
    wide.paste(0, (300, 0), seven(500))
    page.locator("#file").set_input_files(
        {"name": "wide.png", "mimeType": "image/png", "buffer": encoded(wide)}
    )
    expect(page.locator("#file")).to_have_value("")
    pad = page.locator("#pad").evaluate("pad => pad.width ** 2")
    assert ink(page) / pad == pytest.approx(0.5, abs=0.01)
    draw_seven(page)
    assert ink(page) == inked
    page.keyboard.press("Control+z")
    assert ink(page) == 0


def test_large_picture_is_reduced_before_it_is_sent(page: Page) -> None:
    with page.expect_request(PREVIEW) as request:
        page.locator("#file").set_input_files(picture_file(edge=2500))
    url = request.value.post_data_json["image"]
    assert decode(base64.b64decode(url.partition(",")[2])).size == (500, 500)


def test_screen_density_never_reaches_the_model(visit: Callable[..., Page]) -> None:
    seen = []
    for density in (1, 3):
        page = visit(**PHONE, device_scale_factor=density)
        draw_seven(page)
        with page.expect_response("**/api/predictions") as answer:
            page.click("#predict")
        expect(page.locator("#pad")).to_have_js_property(
            "width", density * page.locator("#pad").evaluate("pad => pad.clientWidth")
        )
        seen.append(np.frombuffer(base64.b64decode(answer.value.json()["pixels"]), np.uint8))
    assert all(np.abs(seen[0].astype(int) - other).max() <= 1 for other in seen)


def test_drawing_survives_a_turn_of_the_screen(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    draw_seven(page)
    share = ink(page) / box_of(page)["width"] ** 2
    page.set_viewport_size({"width": 844, "height": 390})
    pad = page.locator("#pad")
    expect(pad).to_have_js_property("width", pad.evaluate("pad => pad.clientWidth"))
    assert ink(page) / box_of(page)["width"] ** 2 == pytest.approx(share, rel=0.1)
    page.click("#predict")
    expect(page.locator("#message")).to_contain_text("recorded")


def test_record_is_sorted_filtered_and_shown_again(page: Page) -> None:
    rows, empty = page.locator("#history tbody tr"), page.locator("#record .empty")
    expect(empty).to_have_text("Nothing yet. Each prediction appears here.")
    for label in ("7", "2", None):
        predict_seven(page)
        if label:
            page.keyboard.press(label)
            expect(page.locator("#message")).to_contain_text("Kept")
        page.click("#clear")
    for verdict, label in (("right", "7"), ("wrong", "2"), ("unlabelled", "–")):
        page.select_option("[name=verdict]", verdict)
        expect(rows).to_have_count(1)
        expect(rows.first.locator("td").nth(3)).to_have_text(label)
    page.select_option("[name=digit]", "3")
    expect(empty).to_have_text("None like that so far.")
    page.select_option("[name=digit]", "")
    page.select_option("[name=verdict]", "")
    expect(rows).to_have_count(3)
    for _ in range(2):  # ascending, then descending
        page.click("[data-key=true_digit]")
    expect(rows.first.locator("td").nth(3)).to_have_text("7")
    expect(page.locator("#answer")).to_have_text("")
    rows.first.get_by_role("button").click()
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator('#feedback [aria-pressed="true"]')).to_have_text("7")
    expect(page.locator("#stats .confusion .wrong", has_text="1")).to_have_count(1)


def add(page: Page, label: int | None = None) -> None:
    """Record a 7 as the page's visitor, and label it."""
    image = {"image": f"data:image/png;base64,{base64.b64encode(encoded(seven())).decode()}"}
    id_ = page.request.post(f"{page.url}api/predictions", data=image).json()["id"]
    if label is not None:
        page.request.patch(f"{page.url}api/predictions/{id_}", data={"true_digit": label})


def test_every_column_sorts_both_ways(page: Page) -> None:
    for label in (None, 0, 7):
        add(page, label)
    page.reload()
    cells = page.locator("#history tbody td:nth-child(4)")
    expect(cells).to_have_text(["7", "0", "–"])
    for key, order, labels in (
        ("true_digit", "ascending", ["–", "0", "7"]),
        ("true_digit", "descending", ["7", "0", "–"]),
        ("confidence", "ascending", ["7", "0", "–"]),  # as before: all are equal
        ("created_at", "descending", ["7", "0", "–"]),
        ("created_at", "ascending", ["–", "0", "7"]),
    ):
        page.click(f"[data-key={key}]")
        expect(cells).to_have_text(labels)
        sorted_by = page.locator("#history th[aria-sort]")
        expect(sorted_by).to_have_count(1)
        expect(sorted_by).to_have_attribute("aria-sort", order)
        expect(sorted_by.locator(f"[data-key={key}]")).to_have_count(1)


def test_older_list_is_dropped(page: Page, failed_requests: None) -> None:
    predict_seven(page)
    lists = hold(page, LIST)
    for digit in ("3", "4", ""):
        page.select_option("[name=digit]", digit)
    older, failing, newest = (take(page, lists) for _ in range(3))
    newest.continue_()
    failing.abort()
    older.continue_()
    settle(page)
    expect(page.locator("#history tbody tr")).to_have_count(1)
    expect(page.locator("#message")).to_have_text("Read as a 7, and recorded.")


def test_prediction_made_while_the_list_loads_stays(page: Page) -> None:
    add(page)
    lists = hold(page, LIST)
    page.reload()
    route = take(page, lists)
    before = route.fetch()
    predict_seven(page)
    route.fulfill(response=before)
    expect(page.locator("#history tbody tr")).to_have_count(2)


def test_new_predictions_obey_the_filters(page: Page) -> None:
    rows, empty = page.locator("#history tbody tr"), page.locator("#record .empty")
    for name, value, count in (
        ("digit", "3", 0),
        ("digit", "7", 2),
        ("verdict", "wrong", 0),
        ("verdict", "unlabelled", 4),
    ):
        with page.expect_response(LIST):
            page.select_option(f"[name={name}]", value)
        page.keyboard.press("Escape")
        predict_seven(page)
        expect(rows).to_have_count(count)
        expect(empty).to_be_visible(visible=count == 0)
        expect(page.locator("#history")).to_be_visible(visible=count > 0)


def test_counts_and_model_are_told(page: Page) -> None:
    add(page, 1)
    add(page, 7)
    page.reload()
    expect(page.locator("#stats .accuracy")).to_contain_text("50.0 % right: 1 of 2")
    rows = page.locator("#stats .confusion tbody tr")
    expect(rows.nth(1)).to_have_text("110 %")
    expect(rows.nth(7)).to_have_text("71100 %")
    expect(rows.nth(1).locator("td").nth(7)).to_have_class("wrong")
    expect(rows.nth(7).locator("td").nth(7)).to_have_class("right")
    card = page.request.get(f"{page.url}api/model").json()
    drawn = [part["accuracy"] for name, part in card["figures"].items() if "drawings" in name]
    worst = f"{100 * min(drawn):.1f}\u00a0% of digits drawn"
    expect(page.locator("#stats .model")).to_contain_text(worst)
    assert min(drawn) < max(drawn)


def test_more_of_the_record_is_had_on_demand(page: Page, server: Server) -> None:
    for _ in range(51):
        page.request.post(
            f"{server.url}/api/predictions",
            data=encoded(seven()),
            headers={"Content-Type": "image/png"},
        )
    page.reload()
    expect(page.locator("#history tbody tr")).to_have_count(50)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#history tbody tr")).to_have_count(51)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


def test_drawing_is_kept_while_the_service_is_away(page: Page, console: list[str]) -> None:
    previews: list[Route] = []
    page.route("**/api/predictions?store=no", lambda route: previews.append(route))
    draw_seven(page)
    page.context.set_offline(True)
    page.click("#predict")
    expect(page.locator("#message")).to_contain_text("cannot be reached")
    with page.expect_event("requestfailed"):  # an older question, which fails only now
        previews.pop().abort()
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#message")).to_have_text("Read as a 7, and recorded.")
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()
    assert {line.partition(":")[0] for line in console} == {"Failed to load resource"}
    console.clear()


def test_nothing_keeps_anybody_out(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    expect(page.locator("#stats .model")).to_contain_text("MNIST")
    assert Axe().run(page).response["violations"] == []
    predict_seven(page)
    page.keyboard.press("7")
    expect(page.locator("#stats .confusion")).to_be_visible()
    for dark in (False, True):
        page.emulate_media(color_scheme="dark" if dark else "light")
        assert Axe().run(page).response["violations"] == []


def test_smallest_phone_shows_all(visit: Callable[..., Page]) -> None:
    page = visit(viewport={"width": 320, "height": 640}, has_touch=True)
    predict_seven(page)
    page.keyboard.press("7")
    expect(page.locator("#stats .confusion")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_clear_and_undo_take_the_answer_away(page: Page) -> None:
    answer, sure = page.locator("#answer"), page.locator("#confidence")
    for key in ("Escape", "Control+z"):
        draw_seven(page)
        page.keyboard.press("Enter")
        expect(answer).to_have_text("7")
        page.keyboard.press(key)
        expect(answer).to_have_text("")
        assert answer.get_attribute("data-prediction-id") is None
        expect(sure).to_have_text("–")
        assert sure.get_attribute("data-level") is None
        expect(page.locator("#probabilities .winner")).to_have_count(0)
        assert not np.asarray(pixels_of(page, "#seen")).any()
    page.click("#clear")
    expect(page.locator("#pad")).to_be_focused()
    page.click("#predict")
    expect(page.locator("#message")).to_contain_text("draw a digit")
    draw_dot(page)
    expect(page.locator("#message")).to_have_text("")


def test_undo_takes_one_stroke_away(page: Page) -> None:
    draw_dot(page)
    inked = ink(page)
    draw_seven(page)
    page.click("#undo")
    assert ink(page) == inked


def test_dot_is_ink_and_leaving_the_pad_ends_a_stroke(page: Page) -> None:
    box = box_of(page)
    page.mouse.click(box["x"] + 50, box["y"] + 50)
    dot = ink(page)
    assert dot > 0
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] - 50, steps=5)
    left = ink(page)
    page.mouse.move(box["x"] + 300, box["y"] + 300, steps=5)
    page.mouse.up()
    assert ink(page) == left > dot


def test_pen_pressure_changes_the_lines_width(page: Page) -> None:
    inked = {}
    for device in ("pen", "mouse"):
        for forces in ((0.1, 0.1), (0.1, 0.9), (0.9, 0.9)):
            page.keyboard.press("Escape")
            draw_line(page, device, forces)
            inked[device, forces] = ink(page)
    light, rising, heavy = [inked["pen", forces] for forces in ((0.1, 0.1), (0.1, 0.9), (0.9, 0.9))]
    assert light < 0.9 * rising < 0.9**2 * heavy
    assert len({inked[key] for key in inked if key[0] == "mouse"}) == 1


def draw_line(page: Page, device: str, forces: tuple[float, ...]) -> None:
    """Draw a line with a device that feels how hard it is pressed."""
    box, session = box_of(page), page.context.new_cdp_session(page)
    steps = [("mousePressed", forces[0]), *(("mouseMoved", force) for force in forces)]
    for step, (type_, force) in enumerate([*steps, ("mouseReleased", 0)]):
        place = {"x": box["x"] + 50 + 60 * step, "y": box["y"] + 100}
        press = {"type": type_, "button": "left", "buttons": 1, "clickCount": 1, "force": force}
        session.send("Input.dispatchMouseEvent", {"pointerType": device} | press | place)


POINT = """(pad, [type, pointerType, pointerId, x, y, more]) => {
    const box = pad.getBoundingClientRect();
    const place = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
    pad.dispatchEvent(new PointerEvent("pointer" + type, {
        bubbles: true, cancelable: true, isPrimary: true, pointerType, pointerId, ...place, ...more,
    }));
}"""


def point(page: Page, type_: str, device: str, id_: int, x: float, y: float, **more: Any) -> None:
    """Let a pointer go down, move, go up or be cancelled on the pad."""
    page.locator("#pad").evaluate(POINT, [type_, device, id_, x, y, more])


def test_palm_never_draws_beside_a_pen(page: Page) -> None:
    inked = []
    for palm in ("away", "before", "meanwhile"):
        page.keyboard.press("Escape")
        if palm == "before":
            point(page, "down", "touch", 2, 0.8, 0.8)
            point(page, "move", "touch", 2, 0.8, 0.2)
        point(page, "down", "pen", 1, 0.2, 0.2)
        if palm == "meanwhile":
            point(page, "down", "touch", 2, 0.8, 0.8)
            point(page, "move", "touch", 2, 0.8, 0.2)
            point(page, "up", "touch", 2, 0.8, 0.2)
        point(page, "move", "pen", 1, 0.2, 0.6)
        point(page, "up", "pen", 1, 0.2, 0.6)
        inked.append(ink(page))
    assert inked[0] == inked[1] == inked[2] > 0


def test_only_the_first_finger_and_the_main_button_draw(page: Page) -> None:
    point(page, "down", "touch", 3, 0.5, 0.5, isPrimary=False)
    point(page, "down", "mouse", 1, 0.5, 0.5, button=2)
    assert ink(page) == 0


def test_cancelled_stroke_goes(page: Page) -> None:
    point(page, "down", "touch", 2, 0.5, 0.5)
    assert ink(page) > 0
    point(page, "cancel", "touch", 2, 0.5, 0.5)
    assert ink(page) == 0


def test_drawing_takes_the_focus_and_the_pointer(page: Page) -> None:
    page.locator("#undo").focus()
    box = box_of(page)
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    expect(page.locator("#pad")).to_be_focused()
    assert page.locator("#pad").evaluate("pad => pad.hasPointerCapture(1)")
    page.mouse.up()


def test_ink_follows_the_systems_colors(visit: Callable[..., Page]) -> None:
    page = visit(**PHONE)
    draw_seven(page)
    for dark in (True, False):
        page.emulate_media(color_scheme="dark" if dark else "light")
        settle(page)
        pad = np.asarray(pixels_of(page, "#pad"))
        line = pad[len(pad) // 5, len(pad) // 2]
        assert (line[:3].min() > 200) if dark else (line[:3].max() < 60)


def touch(session: CDPSession, type_: str, *points: tuple[float, float]) -> None:
    """Put fingers on the screen, move them or lift them."""
    touches = [{"x": x, "y": y, "id": id_} for id_, (x, y) in enumerate(points)]
    session.send("Input.dispatchTouchEvent", {"type": type_, "touchPoints": touches})


def test_finger_draws_on_the_pad_and_scrolls_beside_it(page: Page) -> None:
    session = page.context.new_cdp_session(page)
    for selector in ("#pad", "#predict"):
        box = box_of(page, selector)
        x, y = box["x"] + 100, box["y"] + box["height"] / 2
        touch(session, "touchStart", (x, y))
        for distance in (40, 80, 120, 160):
            touch(session, "touchMove", (x, y - distance))
        touch(session, "touchEnd")
        if selector == "#pad":
            settle(page)
            assert page.evaluate("scrollY") == 0
            inked = ink(page)
    page.wait_for_function("scrollY > 0")
    assert ink(page) == inked > 0


TOUCH = """(pad, fingers) => {
    const touch = (identifier) => new Touch({ identifier, target: pad });
    const touches = Array.from({ length: fingers }, (_, finger) => touch(finger));
    return pad.dispatchEvent(new TouchEvent("touchmove", { cancelable: true, touches }));
}"""


def test_two_fingers_zoom(page: Page) -> None:
    pad = page.locator("#pad")
    expect(pad).to_have_css("touch-action", "pinch-zoom")
    assert [pad.evaluate(TOUCH, fingers) for fingers in (1, 2)] == [False, True]  # one is prevented


def test_second_finger_cancels_the_stroke(page: Page) -> None:
    session = page.context.new_cdp_session(page)
    touch(session, "touchStart", (50, 150))
    touch(session, "touchMove", (150, 250))
    touch(session, "touchEnd")
    one = ink(page)
    assert one > 0
    touch(session, "touchStart", (200, 150))
    touch(session, "touchMove", (200, 190))
    touch(session, "touchStart", (200, 190), (100, 300))
    touch(session, "touchEnd")
    assert ink(page) == one


def test_pad_and_buttons_share_a_phones_screen(page: Page) -> None:
    for name in ("#pad", "#predict", "#clear"):
        box = box_of(page, name)
        assert box["y"] + box["height"] <= 844
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
