"""What is scored, on which data and under which names; runs compared, robustness, and where the files go."""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_folders import experiment
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from litlens.cli.evaluate import show_robustness
from litlens.cli.main import evaluate, train
from litlens.data.datasets.arrays import DigitsDataModule
from litlens.evaluation.distortions import DISTORTIONS
from litlens.evaluation.predictions import Predictions
from litlens.models.networks.mlp import MLP

CPU = "--accelerator=cpu"
DIGITS = load_digits()


def test_two_runs_are_compared(digits_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    mlp, cnn = digits_runs["mlp"], digits_runs["cnn"]
    evaluate(["--ckpt_path", str(mlp), str(cnn), CPU])
    first, second = (Predictions.load(run / "predictions-test.csv") for run in (mlp, cnn))
    only_second = int((~first.correct & second.correct).sum())
    only_first = int((first.correct & ~second.correct).sum())
    said = " ".join(capsys.readouterr().out.split())
    assert f"correct in this run only: {only_second}; in the first only: {only_first}" in said
    assert f"{100 * (only_second - only_first) / 359:+.2f} points" in said
    page = (cnn / "comparison.html").read_text()
    assert f"Only run 2 is correct: {only_second}" in page
    assert not (mlp / "comparison.html").exists()


def test_output_takes_the_files_of_a_single_checkpoint(digits_runs: dict[str, Path], tmp_path: Path) -> None:
    alone = tmp_path / "model.ckpt"
    shutil.copy(digits_runs["cnn"] / "checkpoints" / "best.ckpt", alone)
    evaluate(["--ckpt_path", str(alone), "--output", str(tmp_path / "out"), CPU])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "predictions-test.csv",
        "results.json",
        "report.html",
    }
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["accuracy_test"] == json.loads((digits_runs["cnn"] / "results.json").read_text())["accuracy_test"]
    assert "Loss of training and validation" not in (tmp_path / "out" / "report.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"model.ckpt", "out"}


@pytest.mark.parametrize(
    ("checkpoint", "options", "words"),
    [
        pytest.param("", ["--data.seed=7"], "data.seed: differs from training", id="another split"),
        pytest.param("checkpoints/last.ckpt", [], "not a run's best checkpoint", id="the last checkpoint"),
    ],
)
def test_the_run_folder_keeps_the_results_of_its_own_test(
    digits_runs: dict[str, Path], capsys: pytest.CaptureFixture[str], checkpoint: str, options: list[str], words: str
) -> None:
    run = digits_runs["mlp"]
    before = {path: path.read_bytes() for path in run.iterdir() if path.suffix in (".json", ".csv", ".html")}
    assert len(before) >= 4
    evaluate(["--ckpt_path", str(run / checkpoint), CPU, *options])
    assert f"{words}" in " ".join(capsys.readouterr().out.split())
    assert {path: path.read_bytes() for path in before} == before


def test_the_path_of_the_best_checkpoint_means_its_run(digits_runs: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(digits_runs["mlp"], tmp_path / "run")
    (run / "results.json").unlink()
    evaluate(["--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--data.batch_size=16", CPU])
    again = json.loads((run / "results.json").read_text())["accuracy_test"]
    assert again == json.loads((digits_runs["mlp"] / "results.json").read_text())["accuracy_test"]


def test_a_foreign_data_module_is_not_imported(
    digits_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Importing a module runs its code; this one would leave a file."""
    marker = tmp_path / "ran"
    (tmp_path / "stranger.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    changed = torch.load(digits_runs["mlp"] / "checkpoints" / "best.ckpt", weights_only=True)
    changed["litlens"]["config"]["data"]["class_path"] = "stranger.Data"
    torch.save(changed, tmp_path / "model.ckpt")
    with pytest.raises(SystemExit):
        evaluate(["--ckpt_path", str(tmp_path / "model.ckpt"), CPU])
    (line,) = capsys.readouterr().err.splitlines()
    assert "stranger.Data, which is not part of litlens: if you trust it, add --trust stranger" in line
    assert not marker.exists()


def test_robustness_from_end_to_end(
    digits_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(["--ckpt_path", str(digits_runs["cnn"]), "--robustness", "--output", str(tmp_path), CPU])
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"predictions-test.csv", "results.json", "report.html", "robustness.json", "robustness.png"}
    (figures,) = json.loads((tmp_path / "robustness.json").read_text()).values()
    plain = json.loads((tmp_path / "results.json").read_text())["accuracy_test"]
    undistorted = [point for point in figures["points"] if point["strength"] == 0]
    assert {point["distortion"] for point in undistorted} == set(DISTORTIONS)
    assert [point["accuracy"]["value"] for point in undistorted] == pytest.approx([plain] * len(undistorted), abs=1e-6)
    worst = min(point["accuracy"]["value"] for point in figures["points"])
    assert worst < plain - 0.1
    assert f"{100 * plain:.1f}" in capsys.readouterr().out
    with Image.open(tmp_path / "robustness.png") as image:
        assert image.width > 300


def test_robustness_is_measured_for_every_run(
    digits_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    def note(scored: Any, *, folder: Path, console: Any) -> None:
        seen.update(scored)
        assert folder == tmp_path

    monkeypatch.setattr("litlens.cli.evaluate.show_robustness", note)
    evaluate(
        [
            "--ckpt_path",
            str(digits_runs["mlp"]),
            str(digits_runs["cnn"]),
            "--robustness",
            "--output",
            str(tmp_path),
            CPU,
        ]
    )
    assert [type(network).__name__ for network, _ in seen.values()] == ["MLP", "MnistCNN"]
    assert all(len(data.samples("test")) == 359 for _, data in seen.values())


def test_a_wrong_ckpt_path_is_one_line(
    digits_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(digits_runs["cnn"])
    mistakes = {
        ("--devices=1",): "--ckpt_path is required",
        ("--ckpt_path", str(tmp_path)): "best.ckpt",
        ("--ckpt_path", run, run): "is given twice",
    }
    for options, words in mistakes.items():
        with pytest.raises(SystemExit) as stopped:
            evaluate(list(options))
        assert stopped.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


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


def test_the_table_and_the_files_of_robustness(tmp_path: Path) -> None:
    said = shown(tmp_path / "new folder")
    table = [line for line in said.splitlines() if not line.startswith("robustness")]
    assert len(table) == 3 * len(DISTORTIONS)
    assert max(map(len, table)) <= 80
    figures = json.loads((tmp_path / "new folder" / "robustness.json").read_text())
    assert len(figures) == 2
    one = figures["one"]
    assert one["images"] == 359  # the complete test split
    assert {point["distortion"] for point in one["points"]} == set(DISTORTIONS)
    plain = {point["accuracy"]["value"] for point in one["points"] if point["strength"] == 0}
    assert len(plain) == 1
    assert f"{100 * plain.pop():.1f}" in table[1].split()
    last = [point for point in one["points"] if point["distortion"] == "noise"][-1]
    assert table[3 * list(DISTORTIONS).index("noise") + 1].split()[-1] == f"{100 * last['accuracy']['value']:.1f}"
    with Image.open(tmp_path / "new folder" / "robustness.png") as image:
        assert np.asarray(image).std() > 5


def test_robustness_is_deterministic(tmp_path: Path) -> None:
    before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    assert shown(tmp_path / "a").replace("/a/", "/b/") == shown(tmp_path / "b")
    for name in ("robustness.json", "robustness.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert before == (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())


def draw(folder: Path, names: list[str], *, each: int, start: int = 0) -> None:
    """Write `each` digits of every class as files, from the `start`-th on."""
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in np.flatnonzero(DIGITS.target == label)[start : start + each]:
            pixels = np.minimum(DIGITS.images[index] * 16, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:04}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on three classes, next to data of other layouts."""
    folder = tmp_path_factory.mktemp("other")
    three = ["cat", "dog", "owl"]
    draw(folder / "set", three, each=60)
    draw(folder / "flat", three, each=30, start=60)
    draw(folder / "test-only" / "test", three, each=30, start=60)
    draw(folder / "two-of-three", ["cat", "dog"], each=30, start=60)
    draw(folder / "split" / "train", three, each=20, start=60)
    draw(folder / "split" / "test", three, each=10, start=80)
    with (folder / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "split"])
        rows.writerows([path.relative_to(folder), path.parent.name, "test"] for path in (folder / "flat").glob("*/*"))
    (folder / "config.yaml").write_text(experiment("set", epochs=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LITLENS_CACHE", str(folder / "cache"))
        train(["--config", "config.yaml"])
        (run,) = (folder / "runs" / "config").iterdir()
        yield run


@pytest.mark.filterwarnings("ignore:.*absent|.*y_true:UserWarning")
@pytest.mark.parametrize(
    ("options", "scored"),
    [
        (["--data.folder=flat"], 90),
        (["--data.folder=test-only"], 90),
        (["--data.folder=two-of-three"], 60),
        (["--data.folder=.", "--data.csv=rows.csv"], 90),
        (["--data.folder=split"], 30),
        (["--data.folder=split", "--split=all"], 90),
        (["--data.folder=flat", "--split=test"], 9),
        (["--split=val"], 54),
        (["--split=all"], 180),
        ([], 18),
    ],
)
def test_every_image_is_scored_by_its_own_class(
    trained: Path, options: list[str], scored: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(["--ckpt_path", str(trained), "--output", str(tmp_path), "--accelerator=cpu", *options])
    assert json.loads((tmp_path / "results.json").read_text())["n_test"] == scored
    predictions = Predictions.load(tmp_path / "predictions-test.csv")
    assert list(predictions.class_names) == ["cat", "dog", "owl"]
    for name, label in zip(predictions.names, predictions.labels, strict=True):
        assert Path(name).parent.name == predictions.class_names[label]
    assert ("no image of 1 classes: owl" in caplog.text) == ("two-of-three" in "".join(options))


def test_other_data_leave_the_run_folder_unchanged(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "results.json").read_bytes()
    for option, words in (
        ("--data.folder=flat", "the data differ from those of the training"),
        ("--split=val", "scored on val"),
    ):
        evaluate(["--ckpt_path", str(trained), "--accelerator=cpu", option])
        assert words in capsys.readouterr().out
    assert (trained / "results.json").read_bytes() == before


def test_an_unknown_class_is_a_mistake(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("more"), ["cat", "dog", "owl", "emu"], each=5)
    with pytest.raises(SystemExit):
        evaluate(["--ckpt_path", str(trained), "--data.folder=more"])
    assert "emu" in capsys.readouterr().err


def test_class_names_that_look_like_numbers_resume_and_evaluate(trained: Path) -> None:
    names = ["1e3", "2e5", "3e1"]
    draw(Path("numbers"), names, each=40)
    train(["--config", "config.yaml", "--data.folder=numbers", "--trainer.max_epochs=1"])
    run = max(trained.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    train(["--resume", str(run), "--trainer.max_epochs=2"])
    evaluate(["--ckpt_path", str(run), "--accelerator=cpu"])
    assert list(Predictions.load(run / "predictions-test.csv").class_names) == names


def test_a_class_folder_that_is_not_utf8_resumes(trained: Path) -> None:
    draw(Path("odd"), [os.fsdecode(b"caf\xe9"), "dog"], each=40)
    train(["--config", "config.yaml", "--data.folder=odd", "--trainer.max_epochs=1"])
    run = max(trained.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    train(["--resume", str(run), "--trainer.max_epochs=2"])
    assert json.loads((run / "results.json").read_text())["epochs"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--export", "model.tflite"], "model.tflite: give a file with the ending .onnx, or .pt2"),
        (["--export", "model.pt2", "--images", "."], "not --images"),
        (["--export", "model.pt2", "--robustness"], "not --robustness"),
        (["--export", "model.pt2", "--accelerator=gpu"], "not --accelerator"),
        (["--export", "model.pt2", "--data.root=nowhere"], "has no 'root'"),
        (["--export"], "--export"),
    ],
)
def test_what_export_does_not_take_is_one_line(
    options: list[str],
    words: str,
    digits_runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = [str(digits_runs[name].resolve()) for name in ("cnn", "mlp")]
    monkeypatch.chdir(tmp_path)
    for paths in [runs[:1]] + [runs] * ("--robustness" in options):
        with pytest.raises(SystemExit):
            evaluate(["--ckpt_path", *paths, *options])
        (line,) = capsys.readouterr().err.splitlines()
        assert (words if len(paths) == 1 else "not several --ckpt_path") in line
    assert list(tmp_path.iterdir()) == []
