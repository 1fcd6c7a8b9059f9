"""The main job in a real browser: draw, predict, label, and find the row in the database."""

import base64
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.conftest import Server
from tests.pictures import SEVEN
from webapp.preprocess import decode

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture
def page(chromium: str, server: Server) -> Iterator[Page]:
    """Return the page in a phone's size, with a console that has to stay empty."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
        printed: list[str] = []
        page.on("console", lambda message: printed.append(message.text))
        page.on("pageerror", lambda error: printed.append(str(error)))
        page.goto(server.url)
        yield page
        browser.close()
        assert printed == []


def draw_seven(page: Page) -> None:
    """Draw a 7 with the mouse."""
    box = page.locator("#pad").bounding_box()
    assert box is not None
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in SEVEN]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=10)
    page.mouse.up()


def test_digit_is_drawn_read_labelled_and_recorded(page: Page, tmp_path: Path) -> None:
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

    with sqlite3.connect(tmp_path / "predictions.db") as database:
        stored = database.execute("SELECT id, predicted_digit, true_digit FROM predictions")
        assert stored.fetchall() == [(answer.get_attribute("data-prediction-id"), 7, 1)]
    database.close()


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
    box = page.locator("#pad").bounding_box()
    assert box is not None
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
    box = page.locator("#pad").bounding_box()
    assert box is not None
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
        box = page.locator(name).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 844
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
