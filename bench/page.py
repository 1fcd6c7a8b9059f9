"""Measure the page in Chromium: python -m bench.page.

Prints how many milliseconds pass from a click on Predict until the stored digit is on the screen,
and between two frames while 60 points per second are drawn and previewed.
"""

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.conftest import Server
from tests.test_browser import FLAGS, box_of, draw_seven

PREDICTIONS = 50
POINTS = 300

MEASURE_PREDICTION = """() => new Promise((resolve) => {
    const answer = document.getElementById("answer");
    const started = performance.now();
    const finish = () => requestAnimationFrame(() => resolve(performance.now() - started));
    new MutationObserver((_, observer) => {
        if (!answer.dataset.predictionId) return;
        observer.disconnect();
        finish();
    }).observe(answer, { attributes: true });
    document.getElementById("predict").click();
})"""
RECORD_FRAMES = """() => {
    window.frameTimesMs = [];
    let last = performance.now();
    const next = (now) => {
        window.frameTimesMs.push(now - last);
        last = now;
        requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
}"""


def main() -> None:
    """Start a server and a browser, and print the measurements."""
    argparse.ArgumentParser(prog="python -m bench.page", description=__doc__).parse_args()
    with (
        tempfile.TemporaryDirectory() as data,
        Server(Path(data)) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page()
        page.goto(server.url)
        prediction_times_ms = []
        for _ in range(PREDICTIONS):
            page.keyboard.press("Escape")
            draw_seven(page)
            prediction_times_ms.append(page.evaluate(MEASURE_PREDICTION))
        print_times("from Predict to the stored digit", prediction_times_ms)

        page.keyboard.press("Escape")
        box = box_of(page)
        page.mouse.move(box["x"] + 10, box["y"] + 10)
        page.mouse.down()
        page.evaluate(RECORD_FRAMES)
        for point in range(POINTS):
            x, y = point % 60 / 60, point // 60 / 5
            page.mouse.move(
                box["x"] + 10 + 0.9 * x * box["width"], box["y"] + 10 + 0.9 * y * box["height"]
            )
            page.wait_for_timeout(1000 / 60)
        page.mouse.up()
        print_times("between frames while drawing", page.evaluate("window.frameTimesMs"))
        browser.close()


def print_times(name: str, times_ms: list[float]) -> None:
    """Print the median and the maximum."""
    print(f"{name}: median {statistics.median(times_ms):.1f} ms, max {max(times_ms):.1f} ms")


if __name__ == "__main__":
    main()
