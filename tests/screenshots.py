"""Take the README's screenshots of the page: python -m tests.screenshots FOLDER.

Starts a server, replays drawings of the pen stroke data set with the mouse, and labels them.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, expect, sync_playwright

from tests.conftest import DRAWINGS, Server
from tests.test_browser import FLAGS
from train.data import TEST_WRITERS, by_writers
from train.sources import Drawing, read_drawings

DEVICES: dict[str, Any] = {
    "desktop": {"viewport": {"width": 1280, "height": 1000}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}


def main() -> None:
    """Save one screenshot per device in the folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    drawings = by_writers(read_drawings(DRAWINGS), TEST_WRITERS)[:240:12]
    with (
        tempfile.TemporaryDirectory() as data,
        Server(Path(data), WEB_CONCURRENCY="2") as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for device, settings in DEVICES.items():
            page = browser.new_context(device_scale_factor=2, **settings).new_page()
            page.goto(server.url)
            for drawing in drawings:
                page.keyboard.press("Escape")
                draw(page, drawing)
                page.keyboard.press("Enter")
                answer = page.locator("#answer")
                expect(answer).to_have_attribute("data-prediction-id", re.compile("."))
                page.keyboard.press(str(drawing.digit))
                expect(page.locator("#message")).to_contain_text("Label saved")
            page.screenshot(path=folder / f"{device}.png")
        browser.close()


def draw(page: Page, drawing: Drawing) -> None:
    """Draw the strokes with the mouse, centered on the pad."""
    box = page.locator("#pad").bounding_box()
    assert box is not None
    points = np.concatenate(drawing.strokes)
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    edge = box["width"]
    scale = 0.65 * edge / span.max()
    corner = (box["x"], box["y"]) + (edge - scale * span) / 2
    for stroke in drawing.strokes:
        start, *path = (corner + scale * (stroke - low)).tolist()
        page.mouse.move(*start)
        page.mouse.down()
        for point in path:
            page.mouse.move(*point)
        page.mouse.up()


if __name__ == "__main__":
    main()
