"""Several checkpoints side by side, robustness on request, and where the files go."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from litlens.cli.evaluation import robustness
from litlens.cli.main import evaluate
from litlens.evaluation.distortions import DISTORTIONS
from litlens.evaluation.predictions import Predictions

CPU = "--accelerator=cpu"


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


def test_output_takes_what_belongs_to_no_run(digits_runs: dict[str, Path], tmp_path: Path) -> None:
    """One run's files on other data, and from a checkpoint that stands alone."""
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
    assert "Loss and accuracy of training" not in (tmp_path / "out" / "report.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"model.ckpt", "out"}


@pytest.mark.parametrize(
    ("checkpoint", "options", "words"),
    [
        pytest.param("", ["--data.seed=7"], "data.seed: not as in training", id="another cut"),
        pytest.param("checkpoints/last.ckpt", [], "not a run's best checkpoint", id="the last checkpoint"),
    ],
)
def test_the_run_folder_keeps_the_score_of_its_own_test(
    digits_runs: dict[str, Path], capsys: pytest.CaptureFixture[str], checkpoint: str, options: list[str], words: str
) -> None:
    run = digits_runs["mlp"]
    before = {path: path.read_bytes() for path in run.iterdir() if path.suffix in (".json", ".csv", ".html")}
    assert len(before) >= 4
    evaluate(["--ckpt_path", str(run / checkpoint), CPU, *options])
    assert f"{words}" in " ".join(capsys.readouterr().out.split())
    assert {path: path.read_bytes() for path in before} == before


def test_a_path_to_the_best_checkpoint_is_as_good_as_its_run(digits_runs: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(digits_runs["mlp"], tmp_path / "run")
    (run / "results.json").unlink()
    evaluate(["--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--data.batch_size=16", CPU])
    again = json.loads((run / "results.json").read_text())["accuracy_test"]
    assert again == json.loads((digits_runs["mlp"] / "results.json").read_text())["accuracy_test"]


def test_a_data_module_of_somebody_else_is_not_imported(
    digits_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Importing a module runs it; the one named here would leave a file."""
    marker = tmp_path / "ran"
    (tmp_path / "stranger.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    changed = torch.load(digits_runs["mlp"] / "checkpoints" / "best.ckpt", weights_only=True)
    changed["litlens"]["config"]["data"]["class_path"] = "stranger.Data"
    torch.save(changed, tmp_path / "model.ckpt")
    with pytest.raises(SystemExit):
        evaluate(["--ckpt_path", str(tmp_path / "model.ckpt"), CPU])
    (line,) = capsys.readouterr().err.splitlines()
    assert "stranger.Data, which is not part of litlens" in line
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


def test_robustness_gets_every_run(
    digits_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    def note(scored: Any, *, folder: Path, console: Any) -> None:
        seen.update(scored)
        assert folder == tmp_path

    monkeypatch.setattr(robustness, "show_robustness", note)
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


def test_one_run_twice_is_a_mistake(digits_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = str(digits_runs["cnn"])
    with pytest.raises(SystemExit):
        evaluate(["--ckpt_path", run, run])
    assert "named twice" in capsys.readouterr().err
