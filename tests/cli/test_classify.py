"""Images without labels: the tables agree with `predict`, unreadable files are listed, the page stays small."""

import csv
import json
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from litlens.checkpoints.loaded_classifier import load_classifier
from litlens.cli import classify
from litlens.cli.main import evaluate
from litlens.data.decode import read_image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of several shapes and modes, and unreadable files."""
    folder = tmp_path / "holiday"
    (folder / "deeper").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, shape in (
        ("a.png", (40, 20)),
        ("b <i>.jpg", (30, 300, 3)),
        ("deeper/c.png", (8, 8)),
        ("d.webp", (64, 9, 3)),
    ):
        Image.fromarray(generator.integers(256, size=shape, dtype=np.uint8)).save(folder / name)
    (folder / "e.jpg").write_bytes((folder / "b <i>.jpg").read_bytes()[:400])
    (folder / "notes.txt").write_text("none")
    (folder / "empty.png").touch()
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "small.png").touch()
    for name in ("Thumbs.db", "Desktop.ini", "._a.png", "__MACOSX/b.png"):  # of Windows and macOS
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    if sys.platform == "linux":
        (folder / os.fsdecode(b"caf\xe9.txt")).touch()  # no valid UTF-8
    return folder


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_the_table_agrees_with_predict(digits_runs: dict[str, Path], photos: Path) -> None:
    evaluate(["--ckpt_path", str(digits_runs["cnn"]), "--images", str(photos)])
    rows = table(digits_runs["cnn"] / "images-holiday" / "predictions.csv")
    assert list(rows) == ["a.png", "b <i>.jpg", "d.webp", "deeper/c.png"]
    loaded = load_classifier(digits_runs["cnn"] / "checkpoints" / "best.ckpt")
    for name, row in rows.items():
        expected = list(loaded.predict(photos / name).items())[:3]
        assert [row["predicted"], row["second"], row["third"]] == [label for label, _ in expected]
        shares = [float(row[key]) for key in ("probability", "second_probability", "third_probability")]
        assert shares == pytest.approx([share for _, share in expected], abs=2e-6)
    text = (digits_runs["cnn"] / "images-holiday" / "predictions.jsonl").read_text()
    lines = {line["name"]: line for line in map(json.loads, text.splitlines())}
    assert lines["e.jpg"].keys() == {"name", "error"}
    assert set(lines) - set(rows) >= {"e.jpg", "notes.txt", "empty.png"}
    for name in rows:
        assert lines[name]["probabilities"] == pytest.approx(loaded.predict(photos / name), abs=1e-6)


def test_files_and_folders_are_classified_each_once(
    digits_runs: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = digits_runs["cnn"].resolve()
    monkeypatch.chdir(photos.parent)
    given = ["holiday/deeper", "holiday/a.png", "holiday/deeper/c.png"]
    evaluate(["--ckpt_path", str(run), "--accelerator=cpu", "--images", *given])
    rows = table(run / "images-deeper-and-2-more" / "predictions.csv")
    assert list(rows) == ["holiday/deeper/c.png", "holiday/a.png"]
    evaluate(["--ckpt_path", str(run), "--images", "holiday/a.png", "--output", str(tmp_path)])
    alone = table(tmp_path / "predictions.csv")
    assert list(alone) == ["a.png"]
    assert alone["a.png"]["probability"] == rows["holiday/a.png"]["probability"]


def test_the_page_shows_the_images_and_lists_unreadable_files(
    digits_runs: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(["--ckpt_path", str(digits_runs["cnn"]), "--images", str(photos), "--output", str(tmp_path / "out")])
    text = (tmp_path / "out" / "images.html").read_text()
    assert text.count("<figure") == 4
    assert text.count('alt="Grad-CAM of') == 4
    assert "b &lt;i&gt;.jpg" in text
    assert "<i>" not in text
    said = capsys.readouterr().out
    for name in ("e.jpg", "notes.txt", "empty.png"):
        assert name in said
        assert f">{name}<" in text
    assert "small.png" not in text
    for name in ("Thumbs.db", "Desktop.ini", "._a.png", "__MACOSX"):
        assert name not in text + said


def test_the_page_shows_a_limited_number(
    digits_runs: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classify, "_SHOWN", 3)
    monkeypatch.setattr(classify, "_AT_ONCE", 2)
    evaluate(["--ckpt_path", str(digits_runs["cnn"]), "--images", str(photos), "--output", str(tmp_path)])
    text = (tmp_path / "images.html").read_text()
    assert text.count("<figure") == 3
    assert "the first 3 are shown" in text
    assert len(table(tmp_path / "predictions.csv")) == 4


def test_a_network_without_maps_classifies_too(digits_runs: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    evaluate(["--ckpt_path", str(digits_runs["mlp"]), "--images", str(photos), "--output", str(tmp_path)])
    text = (tmp_path / "images.html").read_text()
    assert "No Grad-CAM: MLP has no layer" in text
    assert text.count("<figure") == 4


def test_the_map_is_laid_over_the_original_pixels(digits_runs: dict[str, Path], monkeypatch: Any) -> None:
    """The center crop of an image three times as wide as high is its middle third, to the pixel."""
    laid = []
    monkeypatch.setattr(classify, "embedded_image", lambda image, **_: laid.append(image) or "data:")
    photo = np.full((101, 303, 3), 128, dtype=np.uint8)
    preprocessing = load_classifier(digits_runs["cnn"] / "checkpoints" / "best.ckpt").preprocessing
    assert preprocessing is not None
    classify._shown(photo, np.ones((8, 8), dtype=np.float32), preprocessing)
    whole, over = laid
    assert whole.shape == over.shape == (101, 303, 3)
    changed = (over != whole).any(axis=2)
    assert changed[:, 101:202].all()
    assert not changed[:, :101].any()
    assert not changed[:, 202:].any()


def test_the_page_shows_the_first_500_in_less_than_5_mb(
    digits_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    rows, columns = np.mgrid[:200, :320]
    waves = [np.sin(rows / (5 + k)) + np.cos(columns / (3 + k)) for k in range(3)]  # about as detailed as a photograph
    pixels = np.uint8(127 + 60 * np.stack(waves, axis=2))
    Image.fromarray(pixels).save(folder / "000.jpg", quality=90)
    for number in range(1, 502):
        (folder / f"{number:03}.jpg").hardlink_to(folder / "000.jpg")
    alive: weakref.WeakSet[_Watched] = weakref.WeakSet()
    most = 0

    def watched(file: Path, **options: Any) -> Any:
        nonlocal most
        image = read_image(file, **options).view(_Watched)
        alive.add(image)
        most = max(most, len(alive))
        return image

    monkeypatch.setattr(classify, "read_image", watched)
    evaluate(["--ckpt_path", str(digits_runs["cnn"]), "--images", str(folder), "--output", str(tmp_path)])
    text = (tmp_path / "images.html").read_text()
    assert text.count("<figure") == 500
    assert text.count('alt="Grad-CAM of') == 500
    assert "the first 500 are shown" in text
    assert len(table(tmp_path / "predictions.csv")) == 502
    assert len(text) < 5_000_000
    assert most == 1  # complete image in memory at a time


class _Watched(np.ndarray[Any, Any]):
    """Pixels that a weak set can hold."""

    __hash__ = object.__hash__


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--images", "nowhere"], "no file or folder nowhere"),
        (["--images", "."], "no file in ."),
        (["--images", ".", "--robustness"], "not --robustness"),
        (["--images", ".", "--data.batch_size=3"], "not --data.batch_size=3"),
        (["--images"], "--images"),
        (["--images", ".", "--accelerator=abacus"], "abacus"),
    ],
)
def test_mistakes_are_one_line(
    digits_runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    run = digits_runs["cnn"].resolve()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        evaluate(["--ckpt_path", str(run), *options])
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1
