"""Cats and dogs, the public archive of Microsoft's Asirra."""

from pathlib import Path
from typing import Any, ClassVar

from litlens.data.datasets.folder import Archive, FolderDataModule


class CatDogDataModule(FolderDataModule):
    """25,000 images of cats and dogs, a few of them damaged; downloaded (0.8 GB) if `folder` does not exist.

    J. Elson, J. R. Douceur, J. Howell and J. Saul, "Asirra: a CAPTCHA that exploits interest-aligned manual
    image categorization", CCS 2007. Any other folder of two classes can be used as well.

    Args:
        folder: The tree of classes; the data are downloaded to it if it does not exist.
        image_size: Height and width of the images for the network; one number for both.
        **kwargs: As for `FolderDataModule`.
    """

    archive: ClassVar[Archive | None] = Archive(
        url=(
            "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
            "kagglecatsanddogs_5340.zip"
        ),
        # Microsoft publishes none; the dogs-and-cats example of https://github.com/gomlx/gomlx has this one.
        checksum="sha256:b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
        folder="PetImages",
        class_names=("Cat", "Dog"),
    )

    def __init__(
        self, folder: str | Path | int = "data/PetImages", *, image_size: int | tuple[int, int] = 100, **kwargs: Any
    ) -> None:
        super().__init__(folder, image_size=image_size, **kwargs)
