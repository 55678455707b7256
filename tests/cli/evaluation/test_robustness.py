"""The table, the file and the image of `--robustness`, on the digits."""

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from litlens.cli.evaluation.robustness import show_robustness
from litlens.data.datasets.arrays import DigitsDataModule
from litlens.evaluation.distortions import DISTORTIONS
from litlens.models.networks.mlp import MLP


def shown(folder: Path) -> str:
    data = DigitsDataModule()
    data.setup("test")
    scored = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name in ("one", "another run, whose name is so long that no table could hold it at 80 columns"):
            scored[name] = (MLP(image_size=(8, 8), widths=[8]), data)
    console = Console(file=io.StringIO(), width=80, soft_wrap=True)
    show_robustness(scored, folder=folder, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_is_shown_and_kept(tmp_path: Path) -> None:
    said = shown(tmp_path / "new folder")
    table = [line for line in said.splitlines() if not line.startswith("robustness")]
    assert len(table) == 3 * len(DISTORTIONS)
    assert max(map(len, table)) <= 80
    figures = json.loads((tmp_path / "new folder" / "robustness.json").read_text())
    assert len(figures) == 2
    one = figures["one"]
    assert one["images"] == 359  # the whole test split
    assert {point["distortion"] for point in one["points"]} == set(DISTORTIONS)
    plain = {point["accuracy"]["value"] for point in one["points"] if point["strength"] == 0}
    assert len(plain) == 1
    assert f"{100 * plain.pop():.1f}" in table[1].split()
    last = [point for point in one["points"] if point["distortion"] == "noise"][-1]
    assert table[3 * list(DISTORTIONS).index("noise") + 1].split()[-1] == f"{100 * last['accuracy']['value']:.1f}"
    with Image.open(tmp_path / "new folder" / "robustness.png") as image:
        assert np.asarray(image).std() > 5


def test_a_second_time_gives_the_same_bytes(tmp_path: Path) -> None:
    before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    assert shown(tmp_path / "a").replace("/a/", "/b/") == shown(tmp_path / "b")
    for name in ("robustness.json", "robustness.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert before == (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())
