"""Odd images, each made by hand: the result follows from the pixels that were put in."""

import errno
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, features

from litlens.data.decode import BadImage, ImageSource, read_image

RAMP = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def test_a_bitmap_named_jpg_is_a_bitmap(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(encoded(Image.fromarray(RAMP), "BMP"))
    np.testing.assert_array_equal(read_image(path), RAMP)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (0, RAMP),  # invalid, and written by real cameras
        (1, RAMP),
        (2, RAMP[:, ::-1]),
        (3, RAMP[::-1, ::-1]),
        (4, RAMP[::-1]),
        (5, RAMP.transpose(1, 0, 2)),
        (6, np.rot90(RAMP, -1)),
        (7, RAMP[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(RAMP, 1)),
        (9, RAMP),
    ],
)
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_orientation(orientation: int, expected: np.ndarray, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(RAMP), format, exif=exif)), expected)


def test_an_image_with_damaged_exif_is_read_as_it_is_stored() -> None:
    data = encoded(Image.fromarray(RAMP), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    np.testing.assert_array_equal(read_image(data), RAMP)


def test_transparent_pixels_are_put_on_white() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0] = [[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]
    pixels = read_image(encoded(Image.fromarray(rgba)))
    assert pixels[0].tolist() == [[10, 20, 30], [255, 255, 255], [127, 127, 127]]


def test_gray_with_alpha_stays_gray() -> None:
    pixels = read_image(encoded(Image.fromarray(np.array([[[7, 255], [7, 0]]], dtype=np.uint8), "LA")))
    assert pixels.shape == (1, 2, 1)
    assert pixels.ravel().tolist() == [7, 255]


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 100, 0])
    image.putdata([0, 1])
    assert read_image(encoded(image))[0].tolist() == [[200, 0, 0], [0, 100, 0]]
    assert read_image(encoded(image, transparency=0))[0].tolist() == [[255, 255, 255], [0, 100, 0]]
    # One alpha value for each entry of the palette.
    assert read_image(encoded(image, transparency=b"\xff\x00"))[0].tolist() == [
        [200, 0, 0],
        [255, 255, 255],
    ]


def test_cmyk_becomes_rgb() -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    for format in ("JPEG", "TIFF"):
        np.testing.assert_allclose(read_image(encoded(cyan, format))[0, 0], [0, 255, 255], atol=3)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_its_range(format: str) -> None:
    values = np.array([[0, 257, 256 * 128, 65_535]], dtype=np.uint16)
    pixels = read_image(encoded(Image.fromarray(values), format))
    assert pixels.shape == (1, 4, 1)
    assert pixels.ravel().tolist() == [0, 1, 128, 255]  # 32768 / 257 = 127.5, and to even


def test_12_bit_values_in_16_bits_are_reported_and_stretched_by_value_range() -> None:
    values = np.array([[0, 16, 2048, 4095]], dtype=np.uint16)
    data = encoded(Image.fromarray(values))
    with pytest.warns(UserWarning, match=r"scan\.png: 16-bit values from 0 to 4095 .* value_range: \[0, 4095\]"):
        assert read_image(data, name="scan.png").ravel().tolist() == [0, 0, 8, 16]
    assert read_image(data, value_range=(0, 4095)).ravel().tolist() == [0, 1, 128, 255]
    assert read_image(data, value_range=(16, 2048)).ravel().tolist() == [0, 0, 255, 255]


def test_value_range_leaves_8_bits_as_they_are() -> None:
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(RAMP)), value_range=(0, 10)), RAMP)


def test_floating_point_values_are_read_by_value_range() -> None:
    values = np.array([[-1, 0, 1]], np.float32)
    for source in (values, encoded(Image.fromarray(values), "TIFF")):
        assert read_image(source, value_range=(-1, 1)).ravel().tolist() == [0, 128, 255]


def _sources(image: Image.Image, folder: Path) -> dict[str, ImageSource]:
    data = encoded(image, exif=image.getexif())
    path = folder / "image.png"
    path.write_bytes(data)
    return {"Path": path, "str": str(path), "bytes": data, "opened": Image.open(path), "PIL": image}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "L", "turned"])
def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65_536, (5, 4), dtype=np.uint16))
    else:
        shape = {"L": (5, 4), "RGBA": (5, 4, 4)}.get(mode, (5, 4, 3))
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    if mode == "turned":
        image.getexif()[0x0112] = 6
    read = {name: read_image(source) for name, source in _sources(image, tmp_path).items()}
    if mode != "turned":  # an array has no EXIF data
        read["array"] = read_image(np.asarray(image))
    for name, pixels in read.items():
        np.testing.assert_array_equal(pixels, read["Path"], err_msg=name)
    assert read["Path"].shape[:2] == ((4, 5) if mode == "turned" else (5, 4))


def test_a_path_may_begin_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ramp.png").write_bytes(encoded(Image.fromarray(RAMP)))
    np.testing.assert_array_equal(read_image("~/ramp.png"), RAMP)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((3, 8, 8), np.uint8), "(3, 8, 8)"),
        (np.zeros((0, 8), np.uint8), "(0, 8)"),
        (np.array([["a"]]), "<U1"),
        (np.full((2, 2), np.nan), "not finite"),
        (3, "int is not a path"),
    ],
)
def test_other_sources_are_refused(source: ImageSource, reason: str) -> None:
    with pytest.raises(BadImage) as caught:
        read_image(source)
    assert reason in caught.value.reason


def test_a_jpeg_above_50_megapixels_is_read_at_reduced_scale() -> None:
    rng = np.random.default_rng(0)
    # Detail at every scale from 3 pixels up, in an image of 51.2 megapixels.
    layers = [
        np.asarray(Image.fromarray(rng.random((6400 // n, 8000 // n), np.float32)).resize((8000, 6400)))
        for n in (3, 20, 200)
    ]
    data = encoded(Image.fromarray((np.mean(layers, axis=0) * 255).astype(np.uint8)), "JPEG", quality=92)
    pixels = read_image(data)
    assert pixels.shape == (3200, 4000, 1)
    reduced = Image.fromarray(pixels[..., 0]).resize((250, 200), Image.Resampling.BICUBIC)
    complete = Image.open(BytesIO(data)).resize((250, 200), Image.Resampling.BICUBIC)
    difference = np.abs(np.asarray(reduced, np.float64) - np.asarray(complete, np.float64))
    assert difference.mean() < 0.5
    assert difference.max() <= 2


@pytest.mark.parametrize(
    ("size", "read"),
    [
        ((12_000, 9_000), (4500, 6000)),  # where Pillow warns
        ((16_320, 12_240), (6120, 8160)),  # a phone's 200 megapixels, where Pillow raises
        ((16_384, 12_288), (3072, 4096)),
    ],
)
def test_a_jpeg_above_the_limit_of_pillow_is_read_at_reduced_scale(
    size: tuple[int, int], read: tuple[int, int]
) -> None:
    pixels = read_image(encoded(Image.new("L", size, 77), "JPEG"))
    assert pixels.shape[:2] == read
    assert (pixels == 77).all()


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "phone.jpg"
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 100, 50))).save(path, quality=90)
    pixels = read_image(path)
    assert pixels.shape == (48, 64, 3)
    np.testing.assert_allclose(pixels.reshape(-1, 3).mean(axis=0), [200, 100, 50], atol=4)


def test_heic_without_pillow_heif_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImage, match="a HEIC file; pip install pillow-heif"):
        read_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


@pytest.mark.skipif("avif" not in features.modules or not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_not_mistaken_for_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = encoded(Image.new("RGB", (16, 16), "red"), "AVIF").replace(b"ftypavif", b"ftypmif1", 1)
    assert read_image(data).shape == (16, 16, 3)


def test_32_bit_integers_within_16_bits() -> None:
    values = np.array([[0, 65_535]], dtype=np.int32)
    assert read_image(encoded(Image.fromarray(values), "TIFF")).ravel().tolist() == [0, 255]
    with pytest.raises(BadImage, match="beyond 16 bits"):
        read_image(encoded(Image.fromarray(values * 2), "TIFF"))


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(BadImage, match="range is not known"):
        read_image(encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


def test_one_bit_pixels_are_black_and_white() -> None:
    pixels = read_image(encoded(Image.fromarray(np.array([[True, False]]))))
    assert pixels.ravel().tolist() == [255, 0]


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    for format in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **LOSSLESS.get(format, {}))
        assert read_image(data)[0, 0].tolist() == [255, 0, 0]


LOSSLESS: dict[str, dict[str, object]] = {"WEBP": {"lossless": True}}


def test_channels_as_asked() -> None:
    gray = np.array([[0, 100]], dtype=np.uint8)
    assert read_image(encoded(Image.fromarray(gray)), channels=3)[0].tolist() == [[0] * 3, [100] * 3]
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B
    red = read_image(encoded(Image.new("RGB", (1, 1), "red")), channels=1)
    assert red.shape == (1, 1, 1)
    assert red.item() == round(0.299 * 255)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
def test_truncated_files_are_bad(format: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(noise), format)
    path = tmp_path / "half.png"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadImage, match=r"half\.png: ."):
        read_image(path)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("missing", [1, 4, 12])
def test_an_image_without_its_end_is_bad(format: str, missing: int) -> None:
    """Pillow reads such a PNG without a word: all of its pixels may be there, or the last rows black."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(noise), format)
    assert read_image(data + b"more").shape == (64, 64, 3)
    with pytest.raises(BadImage, match="truncated"):
        read_image(data[:-missing])


def test_a_decompression_bomb_is_bad_and_not_decoded() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (10_000, 60_000):  # where Pillow warns, and where it raises
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        with pytest.raises(BadImage, match="pixels"):
            read_image(bomb)


def test_a_bomb_of_a_jpeg_is_refused() -> None:
    data = bytearray(encoded(Image.new("L", (64, 64)), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(BadImage, match="65000x65000 pixels are more than the limit of 500,000,000"):
        read_image(bytes(data))


def test_a_bad_image_has_a_name_and_a_reason(tmp_path: Path) -> None:
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0 not an image")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    # Ghostscript would be started for it.
    (tmp_path / "page.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    reasons = {
        "Thumbs.db": "not an image",
        "empty.jpg": "an empty file",
        "dangling.jpg": "No such file or directory",
        "page.jpg": "not an image",
        ".": "not a regular file",
    }
    for name, reason in reasons.items():
        with pytest.raises(BadImage) as caught:
            read_image(tmp_path / name, name=name)
        assert (caught.value.name, caught.value.reason) == (name, reason)
        assert str(caught.value) == f"{name}: {reason}"


def test_read_errors_are_temporary_and_decode_errors_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(RAMP))
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    for name in ("cut.png", "round.png", "gone.png"):
        with pytest.raises(BadImage) as caught:
            read_image(tmp_path / name)
        assert not caught.value.temporary

    def fails(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(BadImage, match=r"cut\.png: Input/output error$") as caught:
        read_image(tmp_path / "cut.png")
    assert caught.value.temporary


def test_the_published_cats_and_dogs(shared_data: Path) -> None:
    folder = shared_data / "catanddog"
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    bitmaps = [file for file in files if file.read_bytes()[:2] == b"BM"]
    assert len(bitmaps) == 6
    assert all(file.suffix == ".jpg" for file in bitmaps)
    unturned = set()
    for file in files:
        with Image.open(file) as image:
            if image.getexif().get(0x0112) == 0:  # no orientation that there is
                unturned.add(file.relative_to(folder).as_posix())
            size = image.size
        pixels = read_image(file, channels=3)
        if image.getexif().get(0x0112, 1) in (0, 1):
            assert pixels.shape == (size[1], size[0], 3)
    of_pillow_13 = {"train/Dog/35.jpg"} if int(PIL.__version__.partition(".")[0]) >= 13 else set()
    assert unturned == {"train/Cat/27.jpg", "train/Dog/1070.jpg"} | of_pillow_13
