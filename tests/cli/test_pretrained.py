"""What the command says of a pretrained network before the first step."""

from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from litlens.cli.main import train


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.augment=[horizontal_flip]"], "error: model.cached_augmentations: "),
        (
            ["--model.network.weights=w.pth", "--data.normalize=half"],
            "error: data.normalize: the weights were trained ",
        ),
    ],
)
def test_data_that_do_not_fit_leave_no_run_folder(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), "w.pth")
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    data = ["--data=FolderDataModule", "--data.folder=photos", "--data.image_size=64"]
    model = ["--model=TransferClassifier", "--model.network=TransferNetwork", "--model.network.backbone=squeezenet1_1"]
    with pytest.raises(SystemExit) as stop:
        train([*data, *model, *options])
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(message)
    assert not list((tmp_path / "runs").rglob("*.yaml"))
