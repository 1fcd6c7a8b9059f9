"""The page in a real browser, as people use it: mouse, fingers, keyboard, large and small."""

import base64
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FloatRect, Page, Route, expect, sync_playwright

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
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}


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


@pytest.fixture
def page(visit: Callable[..., Page]) -> Page:
    """Return the page on a phone."""
    return visit(**PHONE)


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
        page.mouse.move(*point, steps=10)
    page.mouse.up()


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
    predict_seven(page)
    page.keyboard.press("Escape")
    predict_seven(page)

    def slowly(route: Route) -> None:
        time.sleep(0.3)
        route.continue_()

    page.route("**/api/predictions/*", slowly)
    page.keyboard.down("7")
    page.keyboard.down("7")  # held: the same again
    page.keyboard.up("7")
    page.keyboard.press("1")
    page.locator("#history tbody tr").nth(1).click()
    rows = page.locator("#history tbody tr")
    expect(rows.nth(0).locator("td").nth(3)).to_have_text("1")
    expect(rows.nth(1).locator("td").nth(3)).to_have_text("–")


def test_drawing_is_recorded_once(page: Page) -> None:
    for _ in range(2):
        predict_seven(page)
        page.click("#predict")
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
    draw_seven(page)
    expect(page.locator("#answer")).to_have_text("7")
    expect(page.locator("#history tbody tr")).to_have_count(2)


def test_drawings_of_a_slow_first_visit_are_the_same_persons(page: Page) -> None:
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


def test_screen_density_never_reaches_the_model(visit: Callable[..., Page]) -> None:
    seen = []
    for density in (1, 2, 3):
        page = visit(**PHONE, device_scale_factor=density)
        draw_seven(page)
        with page.expect_response("**/api/predictions") as answer:
            page.click("#predict")
        seen.append(np.frombuffer(base64.b64decode(answer.value.json()["pixels"]), np.uint8))
    assert all(np.abs(seen[0].astype(int) - other).max() <= 1 for other in seen)


def test_drawing_survives_a_turn_of_the_screen(page: Page) -> None:
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_out(visit: Callable[..., Page], scheme: str) -> None:
    page = visit(color_scheme=scheme, **PHONE)
    expect(page.locator("#stats .model")).to_contain_text("MNIST")
    for _ in range(2):  # without a record, and with one
        assert Axe().run(page).response["violations"] == []
        predict_seven(page)
        page.keyboard.press("7")
        expect(page.locator("#stats .confusion")).to_be_visible()


def test_smallest_phone_shows_all(visit: Callable[..., Page]) -> None:
    page = visit(viewport={"width": 320, "height": 640}, has_touch=True)
    predict_seven(page)
    page.keyboard.press("7")
    expect(page.locator("#stats .confusion")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_clear_and_undo_take_the_answer_away(page: Page) -> None:
    answer = page.locator("#answer")
    for key in ("Escape", "Control+z"):
        draw_seven(page)
        page.keyboard.press("Enter")
        expect(answer).to_have_text("7")
        page.keyboard.press(key)
        expect(answer).to_have_text("")
        assert answer.get_attribute("data-prediction-id") is None
    expect(page.locator("#pad")).to_be_focused()
    page.click("#predict")
    expect(page.locator("#message")).to_contain_text("draw a digit")


def ink(page: Page) -> int:
    """Return how many of the pad's pixels are inked."""
    url = page.locator("#pad").evaluate("pad => pad.toDataURL()")
    pad = decode(base64.b64decode(url.partition(",")[2]))
    return int(np.count_nonzero(np.asarray(pad.getchannel("A"))))


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


def test_second_finger_cancels_the_stroke(page: Page) -> None:
    box = box_of(page)
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, *points: tuple[float, float]) -> None:
        placed = [
            {"x": box["x"] + x, "y": box["y"] + y, "id": id_} for id_, (x, y) in enumerate(points)
        ]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": placed})

    fingers("touchStart", (50, 50))
    fingers("touchMove", (150, 150))
    fingers("touchEnd")
    one = ink(page)
    assert one > 0
    fingers("touchStart", (200, 50))
    fingers("touchMove", (200, 90))
    fingers("touchStart", (200, 90), (100, 200))
    fingers("touchEnd")
    assert ink(page) == one


def test_pad_and_buttons_share_a_phones_screen(page: Page) -> None:
    for name in ("#pad", "#predict", "#clear"):
        box = box_of(page, name)
        assert box["y"] + box["height"] <= 844
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
