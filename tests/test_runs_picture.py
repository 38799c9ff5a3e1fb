"""Pictures of any kind made to look like the images of a data set."""

import gzip
import os
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from byhand.errors import DataError
from byhand.runs.picture import read_image


def drawing(size=(200, 300), ink=0, ground=255, width=16, mode="L"):
    """A 2 that stands left of the middle, (width, height) = size."""
    picture = Image.new(mode, size, ground)
    points = [(40, 80), (60, 50), (90, 60), (90, 100), (40, 180), (110, 180)]
    ImageDraw.Draw(picture).line(points, fill=ink, width=width, joint="curve")
    return picture


def saved(picture, path, **options):
    picture.save(path, **options)
    return path


@pytest.fixture
def plain(tmp_path):
    """What the black drawing on white becomes."""
    return read_image(saved(drawing(), tmp_path / "plain.png"))


def mass(image):
    grey = image[0, 0].double()
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in grey.shape)
    return float((grey.sum(1) @ rows) / grey.sum()), float((grey.sum(0) @ columns) / grey.sum())


def extent(image):
    rows, columns = torch.nonzero(image[0, 0], as_tuple=True)
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


def test_a_drawing_lies_in_a_20_pixel_box_with_its_centre_of_mass_in_the_middle(plain):
    assert plain.shape == (1, 1, 28, 28)
    assert plain.dtype == torch.uint8
    assert int(plain.max()) > 240
    height, width = extent(plain)
    assert height == 20
    # The 2 is 86 wide and 145 high: its proportions stay.
    assert width in (11, 12, 13)
    assert all(abs(place - 14) <= 0.5 for place in mass(plain))
    corners = plain[0, 0][[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.tolist() == [0, 0, 0, 0]


def test_a_drawing_is_upright_and_as_it_was_drawn(plain):
    # The foot of the 2 is its widest full row; its upper left is empty, its neck is at the right.
    assert (plain[0, 0] > 128).sum(1).argmax() > 20
    assert plain[0, 0, 4:8].double().sum() > 0


@pytest.mark.parametrize("centre", [True, False])
def test_white_ground_and_black_ground_give_the_same_image(tmp_path, centre):
    white = read_image(saved(drawing(), tmp_path / "w.png"), centre=centre)
    black = read_image(saved(drawing(ink=255, ground=0), tmp_path / "b.png"), centre=centre)
    assert torch.equal(white, black)


@pytest.mark.parametrize(("ink", "ground"), [(60, 200), (200, 60), (0, 120), (255, 140)])
def test_grey_ink_on_grey_ground_is_stretched_to_the_same_image(tmp_path, plain, ink, ground):
    image = read_image(saved(drawing(ink=ink, ground=ground), tmp_path / "g.png"))
    assert (image.int() - plain.int()).abs().max() <= 2


@pytest.mark.parametrize("place", [(0, 0), (100, 0), (300, 600)])
def test_where_on_the_sheet_something_is_drawn_does_not_matter(tmp_path, plain, place):
    sheet = Image.new("L", (900, 1200), 255)
    sheet.paste(drawing(), place)
    assert torch.equal(read_image(saved(sheet, tmp_path / "s.png")), plain)


def test_every_colour_mode_of_the_same_drawing_gives_the_same_image(tmp_path, plain):
    grey = drawing()
    black_ink = Image.new("L", grey.size, 0)
    seen_through = Image.merge("LA", (black_ink, grey.point(lambda v: 255 - v)))
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert wide.mode == "I;16"
    pictures = {
        "1.png": grey.convert("1"),
        "L.png": grey,
        "LA.png": seen_through,
        "RGB.png": grey.convert("RGB"),
        "RGBA.png": seen_through.convert("RGBA"),
        "P.png": grey.convert("RGB").convert("P"),
        "I16.png": wide,
        "grey.gif": grey,
        "L.bmp": grey,
        "L.tif": grey,
        "I.tif": Image.fromarray(np.asarray(grey).astype(np.int32) * 257),
    }
    for name, picture in pictures.items():
        assert torch.equal(read_image(saved(picture, tmp_path / name)), plain), name
    for mode in ("L", "RGB", "CMYK"):  # JPEG loses a little
        image = read_image(saved(grey.convert(mode), tmp_path / f"{mode}.jpg", quality=95))
        assert (image.int() - plain.int()).abs().max() < 16, mode


def test_a_palette_with_a_transparent_colour_lies_over_white(tmp_path, plain):
    picture = drawing(ink=1, ground=0, mode="P")
    picture.putpalette([255, 0, 0, 0, 0, 0])  # the ground would be red, were it not transparent
    assert torch.equal(read_image(saved(picture, tmp_path / "p.png", transparency=0)), plain)


def test_an_animation_counts_with_its_first_frame(tmp_path, plain):
    frames = [drawing(), Image.new("L", (200, 300), 128)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    assert torch.equal(read_image(path), plain)


@pytest.mark.parametrize(("orientation", "undo"), [(3, 180), (6, 90), (8, 270)])
def test_a_photo_is_turned_as_its_exif_says(tmp_path, plain, orientation, undo):
    stored = drawing().rotate(undo, expand=True)  # counter-clockwise, as the camera's sensor saw it
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert torch.equal(read_image(saved(stored, tmp_path / "e.png", exif=exif)), plain)
    assert not torch.equal(read_image(saved(stored, tmp_path / "n.png")), plain)


def test_a_photo_of_paper_with_grain_and_a_shadow_is_read_as_the_drawing(tmp_path, plain):
    noise = np.random.default_rng(0).normal(0, 3, (300, 200))
    shadow = np.linspace(-10, 10, 200)
    photo = (70 + 0.5 * np.asarray(drawing()).astype(float) + noise + shadow).clip(0, 255).astype(np.uint8)
    image = read_image(saved(Image.fromarray(photo), tmp_path / "photo.jpg"))
    assert (image.double() - plain.double()).abs().mean() < 8
    assert (image[plain == 0] == 0).double().mean() > 0.95
    assert all(abs(place - 14) <= 0.5 for place in mass(image))


def test_the_line_of_a_thin_pen_is_as_bright_as_that_of_a_thick_one(tmp_path, plain):
    thin = read_image(saved(drawing(width=2), tmp_path / "thin.png"))
    assert int(thin.max()) == int(plain.max()) == 255
    assert (thin > 100).sum() > 20
    small = read_image(tmp_path / "thin.png", size=(8, 8))
    assert int(small.max()) == 255


def test_small_sizes_are_filled_as_the_8_by_8_digits_are(tmp_path):
    image = read_image(saved(drawing(), tmp_path / "d.png"), size=(8, 8))
    assert image.shape == (1, 1, 8, 8)
    assert extent(image)[0] == 8
    assert image[0, 0, :, 0].max() == 0


def test_without_centring_the_longer_side_fills_the_field_as_in_fashion_mnist(tmp_path):
    picture = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(picture).rectangle((20, 100, 219, 199), fill=(0, 0, 100))  # 200 wide, 100 high
    image = read_image(saved(picture, tmp_path / "shirt.png"), centre=False)
    rows, columns = torch.nonzero(image[0, 0], as_tuple=True)
    assert (int(columns.min()), int(columns.max())) == (0, 27)
    assert (int(rows.min()), int(rows.max())) == (7, 20)
    # Blue 100 is grey 11.4 by ITU-R 601; nothing is stretched.
    assert set(image[0, 0, 8:20].flatten().tolist()) == {255 - 11}


def test_three_channels_keep_colour_and_ground(tmp_path):
    picture = Image.new("RGB", (64, 32), (10, 200, 30))
    image = read_image(saved(picture, tmp_path / "c.png"), size=(32, 32), channels=3)
    assert image.shape == (1, 3, 32, 32)
    assert image[0, :, 16, 16].tolist() == [10, 200, 30]
    with pytest.raises(DataError, match="channels=2"):
        read_image(tmp_path / "c.png", channels=2)


def test_a_picture_of_the_right_size_is_only_inverted_where_its_ground_is_white(tmp_path):
    values = np.zeros((28, 28), np.uint8)
    values[1:5, 2:9] = np.arange(28).reshape(4, 7) * 9
    for name, array in (("black.png", values), ("white.png", 255 - values)):
        for mode in ("L", "RGB", "RGBA"):
            image = read_image(saved(Image.fromarray(array).convert(mode), tmp_path / name))
            assert np.array_equal(image[0, 0].numpy(), values)


def test_exported_8_by_8_digits_come_back_exactly(tmp_path):
    datasets = pytest.importorskip("sklearn.datasets")
    images = (datasets.load_digits().images * 255 / 16).astype(np.uint8)
    for index, array in enumerate(images[::40]):
        path = saved(Image.fromarray(array), tmp_path / f"{index}.png")
        assert np.array_equal(read_image(path, size=(8, 8))[0, 0].numpy(), array)


def test_clothes_that_reach_the_border_all_around_are_not_taken_for_a_white_ground(tmp_path):
    values = np.full((28, 28), 200, np.uint8)
    values[[0, 0, -1, -1], [0, -1, 0, -1]] = 0
    image = read_image(saved(Image.fromarray(values), tmp_path / "coat.png"), centre=False)
    assert np.array_equal(image[0, 0].numpy(), values)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_exported_images_of_the_real_sets_come_back_exactly(tmp_path, name):
    if not os.environ.get("BYHAND_DATA"):
        pytest.skip("BYHAND_DATA does not say where MNIST and Fashion-MNIST are")
    path = os.path.join(os.environ["BYHAND_DATA"], name, "t10k-images-idx3-ubyte.gz")
    with gzip.open(path) as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    # Those of the brightest borders are the hardest to tell from pictures on white.
    border = images[:, [0, -1]].sum((1, 2), dtype=int) + images[:, :, [0, -1]].sum((1, 2), dtype=int)
    for index in [*np.argsort(-border)[:150], *range(100)]:
        file = saved(Image.fromarray(images[index]), tmp_path / "x.png", compress_level=1)
        assert np.array_equal(read_image(file, centre=name == "mnist")[0, 0].numpy(), images[index])


def test_a_mnist_digit_moved_on_a_larger_sheet_is_brought_back_to_its_place(tmp_path):
    if not os.environ.get("BYHAND_DATA"):
        pytest.skip("BYHAND_DATA does not say where MNIST is")
    with gzip.open(os.path.join(os.environ["BYHAND_DATA"], "mnist", "t10k-images-idx3-ubyte.gz")) as file:
        images = np.frombuffer(file.read(16 + 784 * 100), np.uint8, offset=16).reshape(-1, 28, 28)
    near = 0
    for array in images:
        sheet = np.zeros((100, 90), np.uint8)
        sheet[60:88, 5:33] = array
        image = read_image(saved(Image.fromarray(255 - sheet), tmp_path / "x.png"))[0, 0].numpy()
        near += np.abs(image.astype(int) - array).mean() < 1  # its faintest pixels are taken for grain
    assert near >= 95


@pytest.mark.parametrize("size", [(300, 4), (2, 500), (1, 40)])
def test_a_very_thin_picture_still_fits(tmp_path, size):
    picture = Image.new("L", size, 255)
    picture.paste(0, (0, 0, max(1, size[0] // 3), max(1, size[1] // 3)))
    image = read_image(saved(picture, tmp_path / "t.png"))
    assert max(extent(image)) == 20
    assert all(abs(place - 14) <= 0.5 for place in mass(image))


def test_specks_that_vanish_when_made_small_are_nothing_drawn(tmp_path):
    picture = Image.new("L", (2000, 2000), 255)
    picture.putpixel((0, 0), 0)
    picture.putpixel((1999, 1999), 0)
    one_line_error(saved(picture, tmp_path / "specks.png"), "nothing is drawn")


def one_line_error(path, match, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=match) as error:
            read_image(path, **options)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_what_is_no_picture_is_a_one_line_error(tmp_path):
    one_line_error(tmp_path / "none.png", "no picture at")
    one_line_error(tmp_path, "is not a file")
    (tmp_path / "empty.png").write_bytes(b"")
    one_line_error(tmp_path / "empty.png", "is empty")
    (tmp_path / "text.png").write_text("not a picture\n" * 50)
    one_line_error(tmp_path / "text.png", "is not a picture")
    (tmp_path / "drawing.svg").write_text("<svg/>")
    one_line_error(tmp_path / "drawing.svg", "is not a picture; give one of PNG, JPEG")
    saved(drawing().convert("F"), tmp_path / "f.tif")
    one_line_error(tmp_path / "f.tif", "floating-point pixels")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.gif", "x.bmp", "x.webp"])
def test_a_truncated_picture_is_a_one_line_error(tmp_path, name):
    path = saved(drawing(), tmp_path / name)
    data = path.read_bytes()
    for length in (3, 20, len(data) // 3, len(data) // 2):
        path.write_bytes(data[:length])
        one_line_error(path, "picture")


def test_damaged_pictures_are_errors_or_images_but_never_anything_else(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("x.png", "x.jpg", "x.gif", "x.tif"):
        path = saved(drawing(), tmp_path / name)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            damaged = data.copy()
            places = generator.integers(0, len(data), 3)
            damaged[places] = generator.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            try:
                assert read_image(path).shape == (1, 1, 28, 28)
            except DataError as error:
                assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("side", [100_000, 10_000])  # Pillow raises for the first, only warns for the second
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path, side):
    path = saved(Image.new("1", (8, 8)), tmp_path / "bomb.png")
    data = bytearray(path.read_bytes())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    one_line_error(path, "more than 89,478,485 pixels")


def test_eps_which_pillow_would_give_to_another_program_is_not_read(tmp_path):
    saved(drawing(), tmp_path / "x.eps")
    one_line_error(tmp_path / "x.eps", "is not a picture")


@pytest.mark.parametrize("size", [(28, 28), (100, 80)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_picture_says_that_nothing_is_drawn(tmp_path, size, level):
    path = saved(Image.new("L", size, level), tmp_path / "blank.png")
    one_line_error(path, "nothing is drawn")
    one_line_error(path, "nothing is drawn", centre=False)


def test_a_photo_of_blank_paper_says_that_nothing_is_drawn(tmp_path):
    noise = np.random.default_rng(0).normal(200, 1.5, (200, 200)).astype(np.uint8)
    one_line_error(saved(Image.fromarray(noise), tmp_path / "paper.jpg"), "nothing is drawn")
