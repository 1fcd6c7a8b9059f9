"""How a drawing becomes pixels."""

import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from tests.pictures import encoded, seven
from train.data import load_mnist
from train.drawings import STYLES, draw_strokes, render_all
from train.outliers import make_test_outliers
from train.sources import Drawing
from webapp.decode import decode
from webapp.errors import BlankImage
from webapp.preprocess import DIGIT_PX, prepare, prepare_with_doubt

EXPECTED = prepare(seven())


def same(pixels: np.ndarray, expected: np.ndarray = EXPECTED, levels: int = 1) -> bool:
    """Say whether no pixel differs by more than some gray levels."""
    return int(np.abs(pixels.astype(int) - expected).max()) <= levels


def on_paper(ink: Image.Image, paper: int, pen: int) -> Image.Image:
    """Return the ink in another gray, on paper of some gray."""
    return ink.point([round(paper + (pen - paper) * level / 255) for level in range(256)])


def test_mnist_digits_are_not_changed(mnist: Path) -> None:
    digits = load_mnist(mnist)[2].pixels.numpy()[:1000]
    kept = [same(prepare(Image.fromarray(digit)), digit) for digit in digits]
    assert np.mean(kept) > 0.97  # the others have dirt beside the digit


def test_prepared_scribbles_match_the_stored_ones() -> None:
    scribbles = make_test_outliers(40)["scribbles"]
    flat = [style for style in STYLES if style != "photo"]
    with np.load(Path(__file__).with_name("prepared.npz")) as before:
        for edge in before:
            pixels = render_all(scribbles, flat, int(edge))
            kept = [same(one, other) for one, other in zip(pixels, before[edge], strict=True)]
            assert np.mean(kept) > 0.95  # the others have ink around a part


@pytest.mark.parametrize("step", [2, 3, 4, 16])
@pytest.mark.parametrize("size", [(100, 100), (75, 100), (280, 280), (640, 480)])
def test_regular_pattern_is_prepared_or_blank(size: tuple[int, int], step: int) -> None:
    rows, columns = np.indices(size) // step % 2
    for pattern in (rows, columns, rows ^ columns):
        with suppress(BlankImage):
            assert prepare(Image.fromarray(255 * pattern.astype(np.uint8))).max() == 255


def test_digit_fills_the_box_and_its_mass_lies_in_the_middle() -> None:
    rows, columns = np.nonzero(EXPECTED)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == DIGIT_PX
    mass = EXPECTED.astype(float)
    middle = [mass.sum(axis=axis) @ (np.arange(28) + 0.5) / mass.sum() for axis in (0, 1)]
    assert all(14 <= center <= 15 for center in middle)
    assert EXPECTED.max() == 255


def test_transparent_drawing_in_two_colors_is_read_as_one() -> None:
    picture = Image.new("RGBA", (280, 280), (0, 0, 60, 255))
    picture.paste((0, 90, 0, 255), (0, 0, 140, 280))
    picture.putalpha(seven())
    assert np.abs(prepare(picture).astype(int) - EXPECTED).mean() < 9


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_ink_far_from_the_middle_is_not_cut_off(turn: int) -> None:
    picture = Image.new("L", (280, 280))
    ImageDraw.Draw(picture).rectangle((20, 110, 60, 170), fill=255)
    ImageDraw.Draw(picture).line((40, 140, 260, 140), fill=255, width=4)
    pixels = prepare(picture.rotate(turn)).astype(float)
    assert pixels.sum() == pytest.approx(prepare(picture).sum(), rel=0.02)
    assert np.ptp(np.nonzero(pixels)) + 1 == DIGIT_PX


@pytest.mark.parametrize(
    "picture",
    [
        ImageOps.invert(seven()),
        seven().convert("RGBA"),
        Image.merge("LA", (Image.new("L", (280, 280)), seven())),
        Image.merge("LA", (Image.new("L", (280, 280), 255), seven())),
        Image.merge("LA", (Image.new("L", (280, 280)), seven().point(lambda ink: ink // 3))),
        Image.fromarray(np.asarray(seven()).astype(np.uint16) * 257),
        seven().convert("P"),
    ],
    ids=["paper", "rgba", "black on nothing", "white on nothing", "faint", "16 bit", "palette"],
)
def test_background_and_mode_do_not_matter(picture: Image.Image) -> None:
    assert same(prepare(decode(encoded(picture))))


@pytest.mark.parametrize(("paper", "pen"), [(200, 40), (90, 30), (60, 220), (255, 226)])
def test_gray_paper_does_not_matter(paper: int, pen: int) -> None:
    assert same(prepare(on_paper(seven(), paper, pen)), levels=8)


def test_place_does_not_matter() -> None:
    for corner in ((0, 0), (321, 77)):
        canvas = Image.new("L", (640, 400))
        canvas.paste(seven(), corner)
        assert same(prepare(canvas))


@pytest.mark.parametrize("edge", [140, 560, 1120, 2000])
def test_size_does_not_matter(edge: int) -> None:
    assert np.abs(prepare(seven(edge)).astype(int) - EXPECTED).mean() < 2


def test_size_does_not_change_the_shape() -> None:
    wide, small = Image.new("L", (2900, 1200)), Image.new("L", (290, 120))
    wide.paste(seven(1200), (800, 0))
    small.paste(seven(120), (80, 0))
    assert np.abs(prepare(wide).astype(int) - prepare(small)).mean() < 2


def test_tight_crop_is_read_as_with_a_margin(mnist: Path) -> None:
    differences = []
    for digit in load_mnist(mnist)[2].pixels.numpy()[:1000]:
        rows, columns = np.nonzero(digit)
        crop = digit[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        expected = prepare(Image.fromarray(np.pad(crop, 2))).astype(int)
        differences.append(np.abs(prepare(Image.fromarray(crop)) - expected).mean())
    assert np.mean(np.array(differences) < 5) > 0.99


@pytest.mark.parametrize("pen", [0.12, 0.3])
def test_large_crop_of_a_bold_digit_is_read_as_with_a_margin(
    drawings: list[Drawing], pen: float
) -> None:
    differences = []
    for drawing in drawings[::200]:
        ink = draw_strokes(drawing.strokes, np.random.default_rng(0), 320, (pen, pen), (0.5, 0.5))
        crop = ink.crop(ink.point(lambda level: 255 * (level > 127)).getbbox())
        expected = prepare(ImageOps.expand(crop, 40)).astype(int)
        differences.append(np.abs(prepare(crop) - expected).mean())
    assert np.max(differences) < 3


@pytest.mark.parametrize("pen", [0.05, 0.1])
def test_digit_on_a_panel_is_read_as_without(drawings: list[Drawing], pen: float) -> None:
    for drawing in drawings[::300]:
        ink = draw_strokes(drawing.strokes, np.random.default_rng(0), 160, (pen, pen), (0.5, 0.5))
        panel = Image.new("L", (320, 320))
        ImageDraw.Draw(panel).rounded_rectangle((5, 5, 314, 314), 40, 255)
        panel.paste(0, (80, 80), ink)
        assert np.abs(prepare(panel).astype(int) - prepare(ink)).mean() < 12


@pytest.mark.parametrize(("panel", "ink"), [(255, 0), (255, 120), (90, 0)])
def test_digit_on_a_disc_that_fills_the_picture_is_found(panel: int, ink: int) -> None:
    picture = Image.new("L", (280, 280))
    ImageDraw.Draw(picture).ellipse((0, 0, 279, 279), panel)
    picture.paste(ink, (60, 60), seven(160))
    assert is_seven(picture)


def test_noisy_photo_keeps_its_box() -> None:
    rng = np.random.default_rng(0)
    photo = np.asarray(on_paper(seven(), 210, 60)) + rng.normal(0, 4, (280, 280))
    pixels = prepare(Image.fromarray(photo.clip(0, 255).astype(np.uint8)))
    assert np.abs(pixels.astype(int) - EXPECTED).mean() < 4


def test_light_from_one_side_does_not_matter() -> None:
    light = np.add.outer(np.arange(280), np.arange(280)) * 0.2 + 110
    photo = Image.fromarray((light * (1 - np.asarray(seven()) / 340)).astype(np.uint8))
    assert np.abs(prepare(photo).astype(int) - EXPECTED).mean() < 4


@pytest.mark.parametrize("speck", [(2, 265, 12, 275), (2, 2, 18, 18), (262, 2, 278, 18)])
def test_speck_beside_the_digit_is_left_out(speck: tuple[int, int, int, int]) -> None:
    canvas = seven()
    canvas.paste(255, speck)
    assert same(prepare(canvas))


def test_part_of_the_digit_is_no_speck() -> None:
    canvas = Image.new("L", (280, 280))
    canvas.paste(255, (100, 60, 180, 80))  # the bar of a 5, apart from its bow
    canvas.paste(255, (100, 100, 180, 220))
    rows = np.flatnonzero(prepare(canvas).any(axis=1))
    assert np.ptp(rows) + 1 == DIGIT_PX


def test_dotted_drawing_is_more_than_its_largest_dot() -> None:
    dots = Image.new("L", (1000, 1000))
    for edge in range(0, 1000, 10):
        dots.paste(255, (edge, edge, edge + 2, edge + 2))
    assert prepare(dots).any(axis=1).sum() == DIGIT_PX


def test_thin_stroke_is_not_lost() -> None:
    assert np.count_nonzero(prepare(seven(pen=0.004))) > 40


def test_line_of_a_million_pixels_costs_little() -> None:
    line = np.zeros((1, 1_000_000), np.uint8)
    line[0, 1000:-1000] = 255
    tracemalloc.start()
    assert prepare(Image.fromarray(line)).any()
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_canvas_is_rejected(level: int) -> None:
    with pytest.raises(BlankImage):
        prepare(Image.new("L", (280, 280), level))


def test_transparent_canvas_is_rejected() -> None:
    with pytest.raises(BlankImage):
        prepare(Image.new("RGBA", (280, 280)))


Lines = tuple[tuple[int, int, int, int], ...]


def paper(
    digits: int = 1, ink: Any = (40, 40, 60), sheet: Any = (225, 222, 215), lines: Lines = ()
) -> Image.Image:
    """Return a photograph of paper with blue lines and sevens, 320 pixels wide."""
    image = Image.new("RGB", (320, 240), sheet)
    for line in lines:
        ImageDraw.Draw(image).line(line, (150, 170, 215), 2)
    for i in range(digits):
        image.paste(ink, (100 + 90 * i, 60), seven(110))
    return noisy(image)


def noisy(image: Image.Image) -> Image.Image:
    """Return the picture with the noise of a camera."""
    noise = np.random.default_rng(0).normal(0, 2, (*image.size[::-1], 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def is_seven(picture: Image.Image, tolerance: float = 9) -> bool:
    """Say whether nothing but the 7 is left."""
    pixels, doubt = prepare_with_doubt(picture)
    return doubt is None and float(np.abs(pixels.astype(int) - EXPECTED).mean()) < tolerance


def test_ruled_lines_are_left_out() -> None:
    assert is_seven(paper(lines=tuple((0, y, 320, y + 9) for y in range(10, 240, 35))))


def test_grid_is_left_out() -> None:
    columns = tuple((x, 0, x, 240) for x in range(15, 320, 40))
    assert is_seven(paper(lines=columns + tuple((0, y, 320, y) for y in range(9, 240, 40))))


@pytest.mark.parametrize(("first", "edge"), [(20, 78), (0, 80)])
def test_small_digit_in_a_cell_is_found(first: int, edge: int) -> None:
    picture = Image.new("RGB", (640, 480), (240, 240, 240))
    for at in range(first, 640, 80):
        ImageDraw.Draw(picture).line((at, 0, at, 480), (165, 185, 215), 2)
        ImageDraw.Draw(picture).line((0, at, 640, at), (165, 185, 215), 2)
    picture.paste((30, 40, 130), (240 + first, 160 + first), seven(edge))
    assert is_seven(noisy(picture), 15)
    assert is_seven(picture, 15)


@pytest.mark.parametrize("level", [150, 175, 195])
def test_small_digit_is_found_although_most_ink_is_a_grid(level: int) -> None:
    picture = Image.new("RGB", (640, 480), (240, 240, 240))
    for at in range(20, 640, 50):
        ImageDraw.Draw(picture).line((at, 0, at, 480), (level, level, level))
        ImageDraw.Draw(picture).line((0, at, 640, at), (level, level, level))
    picture.paste((30, 40, 130), (260, 180), seven(52))
    assert is_seven(noisy(picture), 15)


def test_highlighter_is_left_out() -> None:
    sheet = paper(0)
    ImageDraw.Draw(sheet).rectangle((65, 136, 191, 209), (240, 230, 60))
    thin = seven(110, 0.045)
    sheet.paste((70, 70, 80), (100, 60), thin)
    assert np.abs(prepare_with_doubt(sheet).pixels.astype(int) - prepare(thin)).mean() < 9


def test_ink_of_another_color_is_left_out() -> None:
    sheet = paper(0)
    ImageDraw.Draw(sheet).rectangle((120, 110, 170, 150), (60, 90, 210))
    sheet.paste((200, 50, 60), (100, 60), seven(110))
    assert is_seven(sheet)


@pytest.mark.parametrize("line", [(130, 145, 170, 105), (125, 150, 175, 90)])
def test_zero_that_begins_inside_or_is_slashed_is_not_a_frame(line: Any) -> None:
    picture = paper(0)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((90, 40, 210, 200), None, (40, 40, 60), 8)
    outside = prepare_with_doubt(picture).pixels
    draw.line(line, (40, 40, 60), 8)
    pixels, doubt = prepare_with_doubt(picture)
    assert doubt is None
    assert np.abs(pixels.astype(int) - outside).mean() < 20


def test_shadow_is_left_out() -> None:
    levels = np.asarray(paper(), float)
    levels[:, :150] *= 0.7
    assert is_seven(Image.fromarray(levels.astype(np.uint8)))


@pytest.mark.parametrize("level", [40, 60, 90])
@pytest.mark.parametrize("width", [2, 4])
def test_circle_around_the_digit_is_left_out(level: int, width: int) -> None:
    picture = paper()
    ImageDraw.Draw(picture).ellipse((60, 20, 250, 210), None, (level, level, level + 20), width)
    assert is_seven(picture)


def test_circle_around_a_digit_in_pieces_is_left_out() -> None:
    pictures = [Image.new("RGB", (320, 240), (225, 222, 215)) for _ in range(2)]
    for picture in pictures:
        draw = ImageDraw.Draw(picture)
        draw.line((130, 80, 160, 126), (40, 40, 60), 8)
        draw.line((164, 134, 192, 180), (40, 40, 60), 8)
    draw.ellipse((95, 65, 225, 195), None, (40, 40, 60), 4)
    without, circled = (prepare_with_doubt(noisy(picture)) for picture in pictures)
    assert same(circled.pixels, without.pixels, levels=30)


@pytest.mark.parametrize(("edge", "width"), [(280, 8), (1900, 2)])
def test_circle_on_a_flat_background_is_left_out(edge: int, width: int) -> None:
    picture = Image.new("L", (edge, edge))
    margin = edge // 14
    ImageDraw.Draw(picture).ellipse(
        (margin, margin, edge - margin, edge - margin), None, 255, width
    )
    picture.paste(seven(edge // 2), (edge // 4, edge // 4))
    assert is_seven(picture)


@pytest.mark.parametrize("at", [10, 40, 205, 265])
@pytest.mark.parametrize("is_vertical", [False, True])
def test_thin_line_on_a_flat_background_is_left_out(at: int, is_vertical: bool) -> None:
    picture = Image.new("L", (280, 280), 255)
    ends = (at, 0, at, 280) if is_vertical else (0, at, 280, at)
    ImageDraw.Draw(picture).line(ends, 0, 2)
    picture.paste(0, (60, 60), seven(160))
    assert is_seven(picture)


def test_strokes_that_are_apart_on_a_flat_background_are_kept() -> None:
    five = Image.new("L", (280, 280))
    draw = ImageDraw.Draw(five)
    draw.line([(90, 90), (95, 135), (140, 150), (135, 200), (80, 215)], 255, 14)
    draw.line((150, 50, 240, 40), 255, 14)
    assert same(prepare_with_doubt(five).pixels, prepare_with_doubt(five, is_drawing=True).pixels)


def test_many_dots_take_little_memory() -> None:
    pixels = np.full((320, 320, 3), 200, np.uint8)
    pixels[::3, ::3], pixels[:, 0] = 0, 90
    tracemalloc.start()
    prepare_with_doubt(Image.fromarray(pixels))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_two_digits_on_a_flat_background_are_several() -> None:
    picture = Image.new("L", (280, 140))
    for left in (0, 140):
        picture.paste(seven(140), (left, 0))
    assert prepare_with_doubt(picture).doubt == "several_digits"


def test_sheet_on_a_desk_is_background() -> None:
    desk = Image.new("RGB", (440, 330), (120, 90, 60))
    desk.paste(paper(), (70, 50))
    assert is_seven(desk)


def test_color_is_ink_where_the_luminance_is_the_same() -> None:
    assert is_seven(paper(1, (219, 30, 60), (80, 90, 210)))


def test_faint_ink_is_read() -> None:
    assert is_seven(paper(1, (205, 203, 196)))


def test_bold_digit_is_not_hollow() -> None:
    picture = Image.new("RGB", (320, 240), (225, 222, 215))
    picture.paste((40, 40, 60), (50, 10), seven(220, 0.16))
    pixels, doubt = prepare_with_doubt(noisy(picture))
    assert doubt is None
    assert np.abs(pixels.astype(int) - prepare(seven(220, 0.16))).mean() < 9


def test_8_of_two_rings_is_one_digit() -> None:
    picture = paper(0)
    ImageDraw.Draw(picture).ellipse((120, 50, 180, 110), outline=(40, 40, 60), width=6)
    ImageDraw.Draw(picture).ellipse((115, 114, 185, 190), outline=(40, 40, 60), width=6)
    pixels, doubt = prepare_with_doubt(picture)
    assert doubt is None
    assert pixels[:13].any()
    assert pixels[15:].any()


def test_two_digits_are_several() -> None:
    assert prepare_with_doubt(paper(2)).doubt == "several_digits"


def test_picture_without_a_digit_is_unclear() -> None:
    light = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    stains = Image.fromarray(light).resize((320, 240), Image.Resampling.BICUBIC)
    assert prepare_with_doubt(stains).doubt


def test_blank_photograph_is_rejected() -> None:
    with pytest.raises(BlankImage):
        prepare(paper(0))


def test_photograph_of_12_megapixels_needs_little_memory() -> None:
    body = encoded(paper().resize((4000, 3000)), "JPEG")
    tracemalloc.start()
    assert is_seven(decode(body))
    assert tracemalloc.get_traced_memory()[1] < 100e6  # without what Pillow allocates
    tracemalloc.stop()
