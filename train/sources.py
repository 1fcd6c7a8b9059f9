"""The pen strokes that the network is trained and tested on, and where they come from.

Pen-Based Recognition of Handwritten Digits (Alpaydin and Alimoglu, UCI Machine Learning Repository,
data set 81, CC BY 4.0): 10,992 digits by 44 people, pen positions on a tablet in UNIPEN text.

UJI Pen Characters, version 2 (Llorens et al., UCI Machine Learning Repository, data set 177,
CC BY 4.0): two sets of digits by each of 40 people, on a tablet PC. The file has 20 more people,
who are not used.
"""

import hashlib
import io
import subprocess
import urllib.request
import zipfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from subprocess import CalledProcessError
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

UCI = "https://archive.ics.uci.edu/static/public"
PENDIGITS_URL = f"{UCI}/81/pen+based+recognition+of+handwritten+digits.zip"
UJI_URL = f"{UCI}/177/uji+pen+characters+version+2.zip"


Points = NDArray[np.float64]  # [n, 2]: x to the right, y down


@dataclass(frozen=True)
class Drawing:
    """A digit, its writer (a source and a number: "uji 7"), and its strokes in any unit."""

    digit: int
    writer: str
    strokes: list[Points]


def parse_unipen(text: str, source: str) -> list[Drawing]:
    """Return the drawings in UNIPEN text."""
    drawings: list[Drawing] = []
    strokes: list[list[tuple[float, float]]] = []
    for line in text.splitlines():
        match line.split():
            case [".COMMENT", digit, writer, _]:
                strokes = []
                drawings.append(Drawing(int(digit), f"{source} {writer}", []))
            case [".PEN_DOWN"]:
                strokes.append([])
            case [".PEN_UP"]:
                drawings[-1].strokes.append(np.array(strokes[-1]))
            case [x, y] if strokes and x.lstrip("-").isdigit():
                strokes[-1].append((float(x), -float(y)))  # UNIPEN's y points up
    return drawings


def parse_uji(text: str, source: str) -> list[Drawing]:
    """Return the digits of the 40 writers of UJI Pen Characters' training part, in its text."""
    drawings: list[Drawing] = []
    is_digit = False
    for line in text.splitlines():
        match line.split():
            case ["WORD", character, session]:
                is_digit = character in "0123456789" and session.startswith("trn_UJI_W")
                if is_digit:
                    writer = int(session.removeprefix("trn_UJI_W").split("-")[0])
                    drawings.append(Drawing(int(character), f"{source} {writer}", []))
            case ["POINTS", _, "#", *numbers] if is_digit:
                drawings[-1].strokes.append(np.array(numbers, np.float64).reshape(-1, 2))
    return drawings


@dataclass(frozen=True)
class Source:
    """A published file of pen strokes.

    sha256: see `digest`; not of the file, because copies differ in their line endings.
    """

    name: str
    file: str
    url: str
    parse: Callable[[str, str], list[Drawing]]
    sha256: str


SOURCES = (
    Source(
        "pendigits",
        "pendigits-orig.tra",
        PENDIGITS_URL,
        parse_unipen,
        "5f1e701352075b8122b4c9a869052c7476472a0d2b771c5739cb5f18a1ea971e",
    ),
    Source(
        "pendigits-test",
        "pendigits-orig.tes",
        PENDIGITS_URL,
        parse_unipen,
        "a9580060dbc875b873b31883108d5e73affe0587bc053de16216b4a75217cd6c",
    ),
    Source(
        "uji",
        "ujipenchars2.txt",
        UJI_URL,
        parse_uji,
        "445c8465987a8e6e13585e7925314d5ece5517015ebee86eb3809ac53f48ba5b",
    ),
)


def read_drawings(folder: Path, without: Collection[str] = ()) -> list[Drawing]:
    """Return the drawings in the folder's published files, which are downloaded when missing.

    without: names of files to leave out.

    Raises ValueError for a file that cannot be downloaded or that has other drawings.
    """
    used = [source for source in SOURCES if source.file not in without]
    return [drawing for source in used for drawing in _read(source, folder / source.file)]


def _read(source: Source, path: Path) -> list[Drawing]:
    if not path.exists():
        _download(source, path)
    drawings = source.parse(path.read_text("latin-1"), source.name)
    if digest(drawings) != source.sha256:
        raise ValueError(
            f"{path} does not have the published drawings: delete it to download it again."
        )
    return drawings


def digest(drawings: Iterable[Drawing]) -> str:
    """Return the SHA-256 of digits, writers and strokes, in hexadecimal digits."""
    content = hashlib.sha256()
    for drawing in drawings:
        strokes = [stroke.tolist() for stroke in drawing.strokes]
        content.update(repr((drawing.digit, drawing.writer, strokes)).encode())
    return content.hexdigest()


def is_unfinished_four(drawing: Drawing) -> bool:
    """Return whether a drawing is one of 14 fours that were recorded without their second stroke.

    They are the fours by one writer that have a single, almost straight stroke.
    """
    if (drawing.digit, drawing.writer) != (4, "pendigits-test 13") or len(drawing.strokes) > 1:
        return False
    points = drawing.strokes[0]
    length = np.hypot(*np.diff(points, axis=0).T).sum()
    return bool(length < 1.37 * np.ptp(points, axis=0).max())


def _download(source: Source, path: Path) -> None:
    try:
        with urllib.request.urlopen(source.url, timeout=60) as response:
            archive = zipfile.ZipFile(io.BytesIO(response.read()))
        if source.file in archive.namelist():
            content = archive.read(source.file)
        else:  # Python cannot read the compress format; gzip, which every system has, can.
            compressed = archive.read(f"{source.file}.Z")
            command = ["gzip", "-d"]
            content = subprocess.run(
                command, input=compressed, stdout=subprocess.PIPE, check=True
            ).stdout
    except (OSError, BadZipFile, CalledProcessError, HTTPException, KeyError) as error:
        raise ValueError(
            f"{source.file} cannot be downloaded from {source.url}: {error}. "
            f"Train without it with --without {source.file}"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
