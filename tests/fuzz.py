"""Post mutated pictures and bodies to the application: python -m tests.fuzz [CASES [SEED]].

Prints how often each status was returned, by how much the memory of the process grew, and the CPU
time of the slowest request. The same seed gives the same requests.
"""

import base64
import json
import random
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from flask.testing import FlaskClient
from PIL import Image

from tests.conftest import ROOT
from tests.corpus import hostile_file
from tests.pictures import encoded, seven
from webapp.app import create_app
from webapp.settings import Settings
from webapp.startup import check_and_migrate

MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")
OTHER_TYPES = ("application/json", "multipart/form-data; boundary=x", "text/plain", "image/gif", "")
BOUNDARIES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
REPEATED = (b"%", b"[", b"9", b'{"a":', b"a: b\r\n", b"--x\r\n")
OTHER_VALUES: tuple[object, ...] = (None, True, -1, 10, 1e308, "", "7", [], {}, "data:,", "\0")


def main() -> None:
    """Fuzz a new application."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), model_dir=ROOT / "artifacts")
        check_and_migrate(settings)
        client = create_app(settings).test_client()
        fuzz(client, 500, seed)  # warm up: some memory is allocated once
        statuses, growth, slowest = fuzz(client, cases, seed)
    print(f"{cases} cases: {dict(sorted(statuses.items()))}, growth {growth / 1e6:.1f} MB")
    print(f"slowest: {slowest:.2f} s of CPU time")


def fuzz(client: FlaskClient, cases: int, seed: int) -> tuple[Counter[int], int, float]:
    """Return the responses by status, the growth of the process in bytes, and seconds of CPU time.

    The time is that of the slowest request.
    """
    rng = random.Random(seed)
    pictures = _pictures()
    process, statuses, slowest = psutil.Process(), Counter[int](), 0.0
    before = process.memory_info().rss
    for case in range(cases):
        match rng.randrange(12):
            case 0:
                file = hostile_file(np.random.default_rng(rng.randrange(2**32)))
                media_type, body = "image/png", file
            case 1 | 2 | 3:
                media_type, body = _mutated(rng, *_noise(rng))
            case _:
                media_type, body = _mutated(rng, *rng.choice(pictures))
        store = rng.choice(("no", "no", "no", "yes", "perhaps"))
        start = sum(process.cpu_times()[:4])  # with processes that have ended
        response = client.post(
            f"/api/predictions?store={store}", data=body, content_type=media_type
        )
        slowest = max(slowest, sum(process.cpu_times()[:4]) - start)
        statuses[response.status_code] += 1
        assert response.status_code < 500, f"case {case} of seed {seed}"
    return statuses, process.memory_info().rss - before, slowest


def _pictures() -> list[tuple[str, bytes]]:
    """Return pictures in all supported formats and some others, with their media types."""
    drawn = seven()
    gray = np.asarray(drawn.convert("L"))
    kinds = [
        drawn,
        drawn.convert("1"),
        drawn.convert("P"),
        drawn.convert("RGBA"),
        drawn.convert("LA"),
        Image.fromarray(gray.astype(np.uint16) * 257),
        Image.new("L", (1, 1)),
        Image.new("L", (3000, 1), 255),
    ]
    pictures = [("image/png", encoded(kind)) for kind in kinds]
    pictures += [("image/jpeg", encoded(drawn.convert(mode), "JPEG")) for mode in ("L", "CMYK")]
    pictures += [("image/webp", encoded(drawn.convert("RGB"), "WEBP"))]
    pictures += [("image/png", encoded(drawn.convert("RGB"), kind)) for kind in ("GIF", "TIFF")]
    return pictures


def _noise(rng: random.Random) -> tuple[str, bytes]:
    """Return a valid picture: a patch of noise on a plain background."""
    mode = rng.choice(("1", "L", "LA", "P", "RGB", "RGBA", "I;16"))
    width, height = (rng.choice((1, 2, 3, 28, 280, rng.randrange(1, 999))) for _ in range(2))
    picture = Image.new(mode, (width, height), rng.choice((0, 255)))
    patch = rng.randrange(1, width + 1), rng.randrange(1, height + 1)
    noise = rng.randbytes(4 * patch[0] * patch[1])
    if mode != "1":
        picture.paste(Image.frombytes(mode, patch, noise[: len(noise) * _depth(mode) // 4]), (0, 0))
    return "image/png", encoded(picture)


def _depth(mode: str) -> int:
    return {"LA": 2, "RGB": 3, "RGBA": 4, "I;16": 2}.get(mode, 1)


def _mutated(rng: random.Random, media_type: str, picture: bytes) -> tuple[str, bytes]:
    body = _damaged(rng, picture)
    way = rng.randrange(8)
    if way == 0:
        url = f"data:{media_type};base64,{base64.b64encode(body).decode()}"
        return "application/json", _damaged(rng, json.dumps({"image": url}).encode())
    if way == 1:
        value = rng.choice((rng.choice(OTHER_VALUES), {"image": rng.choice(OTHER_VALUES)}))
        return "application/json", json.dumps(value).encode()
    if way == 2:
        head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="7.png"\r\n\r\n'
        return "multipart/form-data; boundary=x", _damaged(rng, head + body + b"\r\n--x--\r\n")
    if way == 4:
        count = rng.choice((10, 10_000, 1_000_000))
        repeated = rng.choice(REPEATED) * count
        start = rng.choice((b"", b"--x\r\n", b'{"image": "data:image/png;base64,', b'{"strokes": '))
        return rng.choice(OTHER_TYPES[:2]), start + repeated[: 4 * 1024**2 - len(start)]
    if way == 3:
        return rng.choice(OTHER_TYPES + MEDIA_TYPES), body
    return media_type, body


def _damaged(rng: random.Random, body: bytes) -> bytes:
    """Return bytes with up to eight mutations; half of the time, correct a PNG's checksums."""
    damaged = bytearray(body)
    for _ in range(rng.choice((0, 0, 0, 1, 2, 8))):
        at = rng.randrange(len(damaged) + 1)
        match rng.randrange(5):
            case 0:  # flip a bit
                damaged[at : at + 1] = bytes(b ^ 1 << at % 8 for b in damaged[at : at + 1])
            case 1:  # replace a number, such as a length or a size
                damaged[at : at + 4] = rng.choice(BOUNDARIES).to_bytes(4)
            case 2:  # truncate
                del damaged[at:]
            case 3:  # repeat a part
                damaged[at:at] = damaged[at : at + rng.randrange(1, 256)]
            case _:  # insert noise, half of the time near the beginning
                at = at if rng.randrange(2) else at % 64
                damaged[at : at + 8] = rng.randbytes(8)
    if rng.randrange(2):
        _checksum(damaged)
    return bytes(damaged)


def _checksum(png: bytearray) -> None:
    """Correct the checksum of every chunk that can be located."""
    at = 8
    while at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4])
        png[end : end + 4] = zlib.crc32(png[at + 4 : end]).to_bytes(4) if end < len(png) else b""
        at = end + 4


if __name__ == "__main__":
    main()
