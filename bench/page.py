"""Time the page in a real browser: python -m bench.page.

Prints the milliseconds from Predict to the recorded digit on the screen, and from one frame to the
next while somebody draws 60 points a second and the answer follows.
"""

import shutil
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.conftest import Server
from tests.test_browser import FLAGS, box_of, draw_seven

TIMES = 50
POINTS = 300

PREDICT = """() => new Promise((resolve) => {
    const answer = document.getElementById("answer");
    const started = performance.now();
    const seen = () => requestAnimationFrame(() => resolve(performance.now() - started));
    new MutationObserver((_, observer) => {
        if (!answer.dataset.predictionId) return;
        observer.disconnect();
        seen();
    }).observe(answer, { attributes: true });
    document.getElementById("predict").click();
})"""
WATCH = """() => {
    window.frames_ms = [];
    let last = performance.now();
    const next = (now) => {
        window.frames_ms.push(now - last);
        last = now;
        requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
}"""


def main() -> None:
    """Measure with a service and a browser of its own."""
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        server = Server(Path(data))
        server.wait_until_ready()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page()
        page.goto(server.url)
        answers = []
        for _ in range(TIMES):
            page.keyboard.press("Escape")
            draw_seven(page)
            answers.append(page.evaluate(PREDICT))
        _print("from Predict to the digit", answers)

        page.keyboard.press("Escape")
        box = box_of(page)
        page.mouse.move(box["x"] + 10, box["y"] + 10)
        page.mouse.down()
        page.evaluate(WATCH)
        for point in range(POINTS):
            x, y = point % 60 / 60, point // 60 / 5
            page.mouse.move(
                box["x"] + 10 + 0.9 * x * box["width"], box["y"] + 10 + 0.9 * y * box["height"]
            )
            page.wait_for_timeout(1000 / 60)
        page.mouse.up()
        _print("from frame to frame while drawing", page.evaluate("window.frames_ms"))
        browser.close()
        server.stop()


def _print(what: str, times_ms: list[float]) -> None:
    print(f"{what}: median {statistics.median(times_ms):.1f} ms, worst {max(times_ms):.1f} ms")


if __name__ == "__main__":
    main()
