"""The archive of cats and dogs is downloaded if the folder is missing: here a small one, from a file."""

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from litlens.data.datasets.catdog import CatDogDataModule
from litlens.data.datasets.folder import Archive, FolderDataModule
from litlens.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive laid out as the published one, with its broken files."""
    archive = tmp_path / "server" / "pets.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("readme[1].txt", "not an image")
        for label, name in enumerate(("Cat", "Dog")):
            for number in range(100):
                image = BytesIO()
                Image.new("RGB", (12, 10), (label * 200, number, 0)).save(image, "JPEG")
                zipped.writestr(f"PetImages/{name}/{number}.jpg", image.getvalue())
        zipped.writestr("PetImages/Cat/666.jpg", b"")
        zipped.writestr("PetImages/Dog/Thumbs.db", b"\xd0\xcf\x11\xe0")
    monkeypatch.setattr(
        CatDogDataModule,
        "archive",
        Archive(archive.as_uri(), checksum=None, folder="PetImages", class_names=("Cat", "Dog")),
    )
    return archive


def test_the_archive_is_downloaded_once_and_unpacked(tmp_path: Path, published: Path) -> None:
    folder = tmp_path / "data" / "cats and dogs"
    data = CatDogDataModule(folder)
    assert (data.class_names, data.image_size) == (["Cat", "Dog"], (100, 100))
    assert not folder.exists()
    data.prepare_data()
    data.setup()
    assert np.bincount(data.samples("train").labels).tolist() == [60, 60]
    assert data.left_out == ["Cat/666.jpg (an empty file)"]  # and not the system file
    assert sorted(path.name for path in folder.parent.iterdir()) == ["cats and dogs", "pets.zip"]
    published.unlink()
    CatDogDataModule(folder).setup()


def test_a_missing_archive_without_a_network_is_one_line(tmp_path: Path, published: Path) -> None:
    published.unlink()
    data = CatDogDataModule(tmp_path / "data" / "PetImages")
    with pytest.raises(UserError, match=r"pets\.zip is not in .*data and could not be downloaded .*copy it there"):
        data.prepare_data()
    assert list((tmp_path / "data").iterdir()) == []


def test_another_archive_is_refused(tmp_path: Path, published: Path) -> None:
    with zipfile.ZipFile(published, "w") as zipped:
        zipped.writestr("other/x.jpg", b"")
    with pytest.raises(UserError, match="has no folder PetImages"):
        CatDogDataModule(tmp_path / "data" / "PetImages").prepare_data()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["pets.zip"]


def test_no_concrete_method_is_overridden() -> None:
    methods = {name for name, value in vars(CatDogDataModule).items() if callable(value)} - {"__init__"}
    assert not methods & {name for base in FolderDataModule.__mro__ for name in vars(base)}
