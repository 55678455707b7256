"""Class folders with names that YAML, a terminal, a font or a browser could read as something else."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from image_folders import set_up
from PIL import Image

from litlens.checkpoints.loaded_classifier import load_classifier
from litlens.cli.main import evaluate, train
from litlens.evaluation.predictions import Predictions

# Numbers, dates, truth values and syntax of YAML 1.1 and 1.2; markup of Rich, HTML and TeX; scripts and lengths.
NAMES = [
    *("1e3", "2e5", "1_000", "0x1F", "0o17", "017", "1.0", "-1", "+1", "1:30", "-.inf", "nan", "5.", "1e-3"),
    *("no", "No", "yes", "on", "off", "y", "n", "true", "False", "null", "None", "~", "2024-01-01", "2024"),
    *("=", "<<", "- a", "a: b", "a #b", "#b", "&a", "*a", "!a", "!!python", "%a", "@a", "`a`", "[a]", "{a}"),
    *("? a", "|", ">", "'", '"', "a'b\"c", "a,b", "a;b", "\\n", "a  b", " a", "a ", "$x^2$", "$(a)", "a$b"),
    *("<blink>a", "<!--"),
    *("&amp;", "[red]a", "🐈", "猫", "é", "e\u0301", "قط", "a\tb", "x" * 200, "train data", "-h", "--ckpt_path"),
]  # fmt: skip


def draw(folder: Path, names: list[str], *, each: int) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name / f"{number}.png")
    return folder


def config(path: Path, folder: Path) -> Path:
    data: dict[str, Any] = {"folder": str(folder), "image_size": 8, "channels": 1, "batch_size": 32}
    content = {
        "data": {"class_path": "FolderDataModule", "init_args": data},
        "model": {"class_path": "ImageClassifier", "init_args": {"network": "litlens.MLP"}},
        "trainer": {"max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False},
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="their file names are Unicode")
def test_odd_names_survive_training_resuming_and_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    names = [*NAMES, os.fsdecode(b"caf\xe9")]
    classes = sorted([*NAMES, "caf\ufffd"])
    assert len(set(names)) == len(names) > 60
    folder = draw(tmp_path / "odd", names, each=10)
    train(["--config", str(config(tmp_path / "odd.yaml", folder))])
    (run,) = (tmp_path / "runs" / "odd").iterdir()
    assert load_classifier(run / "checkpoints" / "best.ckpt").class_names == classes
    train(["--resume", str(run), "--trainer.max_epochs=2"])
    loaded = load_classifier(run / "checkpoints" / "last.ckpt")
    assert loaded.class_names == classes
    assert loaded.metadata["epoch"] == 1
    evaluate(["--ckpt_path", str(run)])
    assert list(Predictions.load(run / "predictions-test.csv").class_names) == classes
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<blink>a" not in page
    assert "<!--" not in page


def test_the_names_of_config_yaml_are_the_names_of_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    names = sorted(NAMES)
    folder = draw(tmp_path / "odd", names, each=10)
    data = set_up(folder, channels=1)
    assert data.class_names == names
    # The list that fixes the classes and their order is read back as it was written.
    assert set_up(folder, channels=1, class_names=names[::-1]).class_names == names[::-1]
