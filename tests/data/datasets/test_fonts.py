import io
import logging
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import matplotlib
import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from PIL import Image

import litlens.data.datasets.fonts
from litlens.data.cache import cache_folder
from litlens.data.datasets.fonts import CHARACTERS, FontsDataModule, font_families, split_by_family
from litlens.data.decode import read_image
from litlens.errors import UserError

ALL = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
FONTS = 14
Archive = dict[str, bytes]


def _glyph(number: int, font: int, *, size: int) -> bytes:
    """An image with the class's number in its left half and the font's in its right."""
    pixels = np.full((size, size), number, dtype=np.uint8)
    pixels[:, size // 2 :] = font
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()


@pytest.fixture
def members() -> Archive:
    """An archive in the published layout; the size of an image is its font's."""
    return {
        f"English/Fnt/Sample{number:03}/img{number:03}-{font:05}.png": _glyph(number, font, size=8 + 10 * font)
        for number in range(1, 63)
        for font in range(1, FONTS + 1)
    }


def _write(members: Archive, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _extract(members: Archive, folder: Path) -> Path:
    for name, content in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _number(name: str) -> int:
    return int(name.rpartition("-")[2].removesuffix(".png"))


def test_classes_and_size_are_known_on_construction() -> None:
    data = FontsDataModule("nowhere")
    assert "".join(data.class_names) == CHARACTERS
    assert (data.num_classes, data.in_channels, data.image_size) == (52, 1, (90, 90))
    assert set(ALL) - set(CHARACTERS) == set("Ocklpsvwxz")


def test_an_archive_gives_52_classes_whatever_size_its_images_have(members: Archive, tmp_path: Path) -> None:
    _write(members, tmp_path / "chars74k" / "EnglishFnt.tgz")
    data = FontsDataModule(tmp_path, seed=3)
    splits = data.load()
    assert {name: len(split) for name, split in splits.items()} == {"train": 520, "val": 104, "test": 104}
    names = [name for split in splits.values() for name in split.names]
    assert len(set(names)) == 52 * FONTS
    for split in splits.values():
        assert set(Counter(split.labels.tolist()).values()) == {len(split) // 52}
        images = split.images.batch(split.rows)
        assert images.dtype == np.uint8
        assert images.shape == (len(split), 90, 90, 1)
        for name, label, image in zip(split.names, split.labels, images, strict=True):
            number = ALL.index(CHARACTERS[label]) + 1
            assert name == f"Fnt/Sample{number:03}/img{number:03}-{_number(name):05}.png"
            assert (image[45, 5, 0], image[45, 84, 0]) == (number, _number(name))


def test_fonts_that_share_a_glyph_are_in_one_split(members: Archive, tmp_path: Path) -> None:
    for font in (5, 9):
        members[f"English/Fnt/Sample020/img020-{font:05}.png"] = members["English/Fnt/Sample020/img020-00002.png"]
    # Equal glyphs of a class that is not used (capital O) do not join families.
    members["English/Fnt/Sample025/img025-00001.png"] = members["English/Fnt/Sample025/img025-00003.png"]
    archive = _write(members, tmp_path / "a.tgz")
    for seed in range(5):
        splits = FontsDataModule(folder=archive, seed=seed, image_size=(8, 8)).load()
        groups = {_number(n): g for s in splits.values() for n, g in zip(s.names, s.groups or [], strict=True)}
        assert groups[2] == groups[5] == groups[9]
        assert len(set(groups.values())) == FONTS - 2
        assert sum({2, 5, 9} <= {_number(name) for name in split.names} for split in splits.values()) == 1


def test_a_folder_gives_what_its_archive_gives(members: Archive, tmp_path: Path) -> None:
    archive = _write(members, tmp_path / "a.tgz")
    extracted = _extract(members, tmp_path / "data" / "chars74k")
    modules = [
        FontsDataModule(folder=archive),
        FontsDataModule(folder=extracted),
        FontsDataModule(folder=extracted / "English"),
        FontsDataModule(folder=extracted / "English" / "Fnt"),
        FontsDataModule(tmp_path / "data"),
    ]
    tests = [data.load()["test"] for data in modules]
    for test in tests[1:]:
        assert test.names == tests[0].names
        assert test.groups == tests[0].groups
        assert np.array_equal(test.images.batch(test.rows), tests[0].images.batch(tests[0].rows))


def test_a_missing_archive_is_fetched_to_its_place(
    members: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(urls: list[str], path: Path) -> None:
        assert urls == ["http://www.ee.surrey.ac.uk/CVSSP/demos/chars74k/EnglishFnt.tgz"]
        assert path == tmp_path / "chars74k" / "EnglishFnt.tgz"
        _write(members, path)

    monkeypatch.setattr(litlens.data.datasets.fonts, "fetch", fetch)
    assert len(FontsDataModule(tmp_path, image_size=(8, 8)).load()["train"]) == 520


def test_without_archive_and_network_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litlens.data.datasets.fonts, "_URL", "http://127.0.0.1:9/EnglishFnt.tgz")
    with pytest.raises(UserError, match=r"EnglishFnt\.tgz is not in .*chars74k and could not be downloaded") as caught:
        FontsDataModule(tmp_path).load()
    assert "\n" not in str(caught.value)
    assert "copy it there" in str(caught.value)


def _without_class(members: Archive) -> None:
    for name in [name for name in members if "Sample011" in name]:
        del members[name]


def _without_font(members: Archive) -> None:
    del members["English/Fnt/Sample037/img037-00007.png"]


def _undecodable(members: Archive) -> None:
    name = "English/Fnt/Sample011/img011-00004.png"
    members[name] = members[name][: len(members[name]) // 2]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_class, r"14 fonts, .* missing: Sample011/img011-00001\.png, .* and 9 more"),
        (_without_font, r"14 fonts, .* missing: Sample037/img037-00007\.png;"),
        (_undecodable, r"Sample011/img011-00004\.png: "),
        (dict.clear, r"has no images such as Sample001/img001-00001\.png"),
    ],
)
def test_missing_and_damaged_images_are_named(
    spoil: Callable[[Archive], None], message: str, members: Archive, tmp_path: Path
) -> None:
    spoil(members)
    (tmp_path / "folder").mkdir()
    for place in (_write(members, tmp_path / "a.tgz"), _extract(members, tmp_path / "folder")):
        with pytest.raises(UserError, match=message) as caught:
            FontsDataModule(folder=place).load()
        assert str(place) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_damaged_archive_is_named(members: Archive, tmp_path: Path) -> None:
    content = _write(members, tmp_path / "whole.tgz").read_bytes()
    middle = len(content) // 2
    damaged = {
        "cut": content[:middle],
        "flipped": content[:middle]
        + bytes(255 - byte for byte in content[middle : middle + 200])
        + content[middle + 200 :],
        "other": b"<html>404</html>",
        "empty": b"",
    }
    for name, bad in damaged.items():
        path = tmp_path / f"{name}.tgz"
        path.write_bytes(bad)
        with pytest.raises(UserError) as caught:
            FontsDataModule(folder=path).load()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no archive or folder .*nothing"):
        FontsDataModule(folder=tmp_path / "nothing").load()


def test_images_are_decoded_once_and_again_when_the_archive_changes(
    members: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    archive = _write(members, tmp_path / "a.tgz")
    before = FontsDataModule(folder=archive).load()["test"]
    read = Mock(wraps=read_image)
    monkeypatch.setattr(litlens.data.datasets.fonts, "read_image", read)
    again = FontsDataModule(folder=archive, seed=0).load()["test"]
    read.assert_not_called()
    assert np.array_equal(again.images.batch(again.rows), before.images.batch(before.rows))
    assert len(list(cache_folder().glob("fonts-*.npy"))) == 2

    members[f"English/{before.names[0]}"] = _glyph(77, 88, size=9)
    _write(members, archive)
    changed = FontsDataModule(folder=archive).load()["test"]
    assert read.called
    image = changed.images.batch(changed.rows[[changed.names.index(before.names[0])]])
    assert (image[0, 45, 5, 0], image[0, 45, 84, 0]) == (77, 88)
    assert len(list(cache_folder().glob("fonts-facts-*.npy"))) == 1  # the old pixels are still in use


def test_drawn_fonts_have_the_same_interface(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shipped = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    usable = ["DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "STIXGeneral", "cmr10", "cmtt10", "cmss10"]
    for name in (*usable, "DejaVuSansDisplay", "DejaVuSerifDisplay", "cmex10"):
        shutil.copy(shipped / f"{name}.ttf", tmp_path)
    (tmp_path / "old").mkdir()
    shutil.copy(shipped / "cmr10.ttf", tmp_path / "old" / "roman.TTF")
    data = FontsDataModule(source="render", folder=tmp_path, batch_size=16)
    with caplog.at_level(logging.WARNING):
        data.setup("fit")
    sizes = {name: len(data.samples(name)) for name in ("train", "val", "test")}
    assert sizes == {"train": 260, "val": 52, "test": 52}
    names = {name for split in sizes for name in data.samples(split).names}
    assert names == {f"{name}.ttf/{character}" for name in usable for character in CHARACTERS}
    assert [line.split(" (")[0] for line in data.left_out] == [
        "DejaVuSansDisplay.ttf: lacks a character",
        "DejaVuSerifDisplay.ttf: lacks a character",
        "cmex10.ttf: draws symbols for characters",
        "old/roman.TTF: is a copy of another",
    ]
    assert "4 of 11 fonts left out: lacks a character (2), draws symbols for characters (1), " in caplog.text
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (16, 1, 90, 90)
    assert labels.shape == (16,)
    # Normalized by the training split's own mean and deviation.
    pixels = data.samples("train").images.batch(data.samples("train").rows) / 255
    assert data.preprocessing.normalize.mean[0] == pytest.approx(pixels.mean())
    assert data.preprocessing.normalize.std[0] == pytest.approx(pixels.std())


def test_no_usable_font_and_too_few_fonts_are_refused(tmp_path: Path) -> None:
    shipped = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    shutil.copy(shipped / "cmex10.ttf", tmp_path)
    with pytest.raises(UserError, match=r"none of the font files \(1\) can be used: cmex10\.ttf draws symbols"):
        FontsDataModule(source="render", folder=tmp_path).load()
    shutil.copy(shipped / "cmr10.ttf", tmp_path)
    with pytest.raises(UserError, match=r"too few font families .*\(families: 1, fonts: 1\)"):
        FontsDataModule(source="render", folder=tmp_path).load()


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(UserError, match="'chars' is not chars74k or render"):
        FontsDataModule(source="chars")  # type: ignore[arg-type]


def test_fonts_that_share_a_glyph_of_one_class_are_a_family() -> None:
    glyphs = [
        [[1], [5]],
        [[2], [6]],
        [[3], [5]],  # the second glyph of font 0
        [[5], [1]],  # font 0's glyphs, but each of the other class
        [[2], [7]],  # the first glyph of font 1
        [[3], [7]],  # the first of font 2 and the second of font 4: joins both families
    ]
    families = font_families([[bytes(glyph) for glyph in font] for font in glyphs])
    assert (families == families[0]).tolist() == [True, True, True, False, True, True]


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1))
def test_a_family_is_a_connected_component(glyphs: list[list[int]]) -> None:
    families = font_families([[bytes([glyph]) for glyph in font] for font in glyphs])
    related = [[any(a == b for a, b in zip(one, two, strict=True)) for two in glyphs] for one in glyphs]
    for font, family in enumerate(families):
        reached = {font}
        while more := {other for one in reached for other, is_one in enumerate(related[one]) if is_one} - reached:
            reached |= more
        assert set(np.flatnonzero(families == family)) == reached


@pytest.mark.parametrize(
    ("fonts", "sizes"),
    [
        (1016, [716, 150, 150]),
        (2032, [1432, 300, 300]),
        (100, [70, 15, 15]),
        (20, [14, 3, 3]),
        (3, [1, 1, 1]),
    ],
)
def test_other_numbers_of_fonts_are_split_in_the_same_proportions(fonts: int, sizes: list[int]) -> None:
    splits = split_by_family(range(fonts), seed=0)
    assert list(splits) == ["train", "val", "test"]
    assert [len(members) for members in splits.values()] == sizes


@given(sizes=st.lists(st.integers(1, 14), min_size=10, max_size=25), seed=st.integers(0, 2**32))
def test_no_family_is_divided_and_large_ones_go_to_training(sizes: list[int], seed: int) -> None:
    families = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    try:
        train, val, test = split_by_family(families.tolist(), seed=seed).values()
    except UserError:
        reject()
    assert sorted([*train, *val, *test]) == list(range(len(families)))
    homes = [set(families[fonts].tolist()) for fonts in (train, val, test)]
    assert sum(map(len, homes)) == len(sizes)
    assert all(sizes[family] <= 10 for family in homes[1] | homes[2])


@pytest.mark.parametrize(
    ("sizes", "split"),
    [
        ([1, 1], None),
        ([20, 1], None),  # the large family goes to training, and one font is left for two splits
        ([4, 4, 4], None),  # val and test need 2 fonts each, and a family has 4
        ([11, 1, 1], [11, 1, 1]),
        ([29, 29, 29, 1, 1, 1, 1], [87, 2, 2]),
        ([10] * 12, [80, 20, 20]),
    ],
)
def test_few_families_are_split_or_refused(sizes: list[int], split: list[int] | None) -> None:
    families = np.repeat(np.arange(len(sizes)), sizes).tolist()
    if split is None:
        with pytest.raises(UserError, match=rf"\(families: {len(sizes)}, fonts: {sum(sizes)}\)"):
            split_by_family(families, seed=0)
    else:
        assert [len(fonts) for fonts in split_by_family(families, seed=0).values()] == split


def test_the_seed_alone_decides() -> None:
    families = range(100)
    again = [split_by_family(families, seed=seed)["test"].tolist() for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_the_real_archive(shared_data: Path) -> None:
    splits = FontsDataModule(shared_data, seed=42, image_size=(28, 28)).load()
    family_of = {
        name: dict(zip(map(_number, split.names), split.groups or [], strict=True)) for name, split in splits.items()
    }
    assert {name: len(fonts) for name, fonts in family_of.items()} == {"train": 716, "val": 150, "test": 150}
    sizes = {name: Counter(fonts.values()).most_common(5) for name, fonts in family_of.items()}
    assert {name: [size for _, size in largest] for name, largest in sizes.items()} == {
        "train": [29, 25, 25, 25, 4],
        "val": [6, 5, 4, 3, 3],
        "test": [3, 3, 3, 3, 2],
    }
    families = [int(family) for fonts in family_of.values() for family in fonts.values()]
    assert len(set(families)) == 783
    for seed in range(10):
        assert [len(fonts) for fonts in split_by_family(families, seed=seed).values()] == [716, 150, 150]
    # Results measured on this seed's split cannot be compared with those of another.
    assert sorted(family_of["val"])[:12] == [1, 10, 12, 15, 38, 45, 46, 47, 57, 59, 76, 82]
    assert sorted(family_of["test"])[:12] == [3, 9, 17, 21, 27, 56, 61, 69, 70, 71, 73, 79]
    # No glyph of one split has a twin in another.
    glyphs = Counter[tuple[int, bytes]]()
    for split in splits.values():
        images = split.images.batch(split.rows)
        glyphs.update({(int(label), image.tobytes()) for label, image in zip(split.labels, images, strict=True)})
    assert set(glyphs.values()) == {1}
