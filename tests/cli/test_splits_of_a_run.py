"""The splits of a run are kept: measured on pure noise, where every gain in accuracy is a test image trained on."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import experiment
from PIL import Image

from litlens.checkpoints.reading import read_checkpoint
from litlens.cli.main import evaluate, train


def noise(folder: Path, numbers: range) -> None:
    """Write an image of noise for each number, in the folder of its class, `even` or `odd`."""
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        place = folder / ("even", "odd")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:04}.png")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 600 images of noise, and a run of one epoch on them."""
    folder = tmp_path_factory.mktemp("noise")
    noise(folder / "noise", range(600))
    (folder / "config.yaml").write_text(experiment("noise", epochs=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LITLENS_CACHE", str(folder / "cache"))
        train(["--config", "config.yaml"])
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, in a copy of the folder that is the working directory."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    (run,) = Path("runs/config").iterdir()
    return run


def splits(run: Path) -> dict[str, set[str]]:
    """The names of train, val and test, as splits.csv has them."""
    with (run / "splits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "label", "split", "content_hash"]
    assert all(row["label"] == row["name"].partition("/")[0] for row in rows)
    assert len({row["content_hash"] for row in rows}) == len(rows) == 600
    return {split: {row["name"] for row in rows if row["split"] == split} for split in ("train", "val", "test")}


def names_tested(run: Path) -> set[str]:
    with (run / "predictions-test.csv").open(newline="") as file:
        return {row["name"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("case", ["another seed", "more files", "more files and a damaged one"])
def test_resuming_keeps_the_splits(run: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    before, table = splits(run), (run / "splits.csv").read_bytes()
    assert [len(before[split]) for split in ("train", "val", "test")] == [360, 180, 60]
    assert names_tested(run) == before["test"]
    if case != "another seed":
        noise(Path("noise"), range(600, 900))
    if case == "more files and a damaged one":
        for number in range(9):
            (Path("noise/even") / f"bad{number}.png").write_text("more than one in a hundred")
    seed = ["--seed_everything=1"] if case == "another seed" else []
    capsys.readouterr()
    train(["--resume", str(run), "--trainer.max_epochs=2", *seed])
    said = capsys.readouterr().out
    new = {"another seed": 0, "more files": 300, "more files and a damaged one": 309}[case]
    assert (f"{new} images that the run did not have are left out: even/0600.png, " in said) == (new > 0)
    assert names_tested(run) == before["test"]
    assert (run / "splits.csv").read_bytes() == table
    results = json.loads((run / "results.json").read_text())
    assert (results["n_test"], results["n_trained_on"], results["n_validated_on"]) == (60, 0, 0)

    files = {name: (run / name).read_bytes() for name in ("results.json", "predictions-test.csv", "report.html")}
    evaluate(["--ckpt_path", str(run), "--accelerator=cpu"])
    assert capsys.readouterr().out.startswith("seen before    0 of 60 images were trained on, 0 were in validation\n")
    assert {name: (run / name).read_bytes() for name in files} == files


def test_new_files_change_no_bit_of_a_resumed_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for copy, number in (("as it was", 600), ("with more", 900)):
        shutil.copytree(".", tmp_path / copy)
        monkeypatch.chdir(tmp_path / copy)
        noise(Path("noise"), range(600, number))
        train(["--resume", str(run), "--trainer.max_epochs=2", "--data.augment=[shift]"])
        weights.append(read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"])
        monkeypatch.chdir(tmp_path / "copy")
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def remove(path: Path) -> str:
    path.unlink()
    return "missing or damaged"


def redraw(path: Path) -> str:
    Image.new("L", (8, 8)).save(path)
    return "its content has changed"


def damage(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:40])
    return "missing or damaged"


@pytest.mark.parametrize("change", [remove, redraw, damage])
@pytest.mark.parametrize("split", ["train", "test"])
def test_resuming_refuses_missing_and_changed_images(
    run: Path, split: str, change: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = min(splits(run)[split])
    reason = change(Path("noise") / name)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        train(["--resume", str(run), "--trainer.max_epochs=2"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"error: data: 1 of the 600 images of the run are missing or have changed: {name} ({reason}): restore them, or "
        f"start a new run from its weights: --config {run}/config.yaml --model.init_from {run}"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_is_removed_in_training_stops_the_run(
    run: Path, workers: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = min(splits(run)["train"])
    monkeypatch.setattr("litlens.cli.train.announce", lambda *_, **__: remove(Path("noise") / name))
    with pytest.raises(SystemExit) as stopped:
        train(["--config", "config.yaml", "--data.cache=off", f"--data.num_workers={workers}"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err.splitlines() == [f"error: {name}: No such file or directory"]


def test_a_new_run_starts_from_the_weights(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remove(Path("noise") / min(splits(run)["train"]))
    train(["--config", f"{run}/config.yaml", "--model.init_from", str(run)])
    assert f"initialized from {run}/checkpoints/best.ckpt" in capsys.readouterr().out


def test_other_classes_and_an_empty_folder_are_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("noise/odder").mkdir()
    shutil.copy("noise/odd/0001.png", "noise/odder")
    lines = []
    for _ in range(2):
        with pytest.raises(SystemExit):
            train(["--resume", str(run)])
        lines += capsys.readouterr().err.splitlines()
        shutil.rmtree("noise")
        noise(Path("noise"), range(1000, 1010))
    assert len(lines) == 2
    assert "data: the run has the classes even, odd, the data have even, odd, odder: restore them, or" in lines[0]
    assert "data: 600 of the 600 images of the run are missing" in lines[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file or directory"),
        ("", "is damaged (line 0)"),
        ("name,label\n", "is damaged (line 1)"),
        ("name,label,split,content_hash\n", "is damaged (line 1)"),
        ("name,label,split,content_hash\na,b,train\n", "is damaged (line 2)"),
        ("name,label,split,content_hash\na,b,dev,c\n", "is damaged (line 2)"),
        ("name,label,split,content_hash\na,b,train,c\na,b,val,c\n", "is damaged (line 3)"),
        ("name,label,split,content_hash\na,b,train,\"c\n", "is damaged (line 2)"),
        (f"name,label,split,content_hash\n{'a' * 200_000},b,train,c\n", "is damaged (line 2)"),
        ("name,label,split,content_hash\n../../etc/passwd,b,train,c\n", "wrong checksum"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_one_line(
    run: Path, text: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "splits.csv").unlink()
    if text is not None:
        (run / "splits.csv").write_text(text)
    with pytest.raises(SystemExit):
        train(["--resume", str(run)])
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert f"start a new run from its weights: --config {run}/config.yaml --model.init_from {run}" in line


@pytest.mark.parametrize(
    "change", [("train", "val"), (",val,", ",test,"), ("even/0000.png", "even/0600.png"), None], ids=str
)
def test_a_table_that_was_edited_is_one_line(
    run: Path, change: tuple[str, str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another split of one image, another image, and the last line gone: each would be a table of its own."""
    noise(Path("noise"), range(600, 601))
    table = (run / "splits.csv").read_text()
    shorter = table[: table.rstrip().rindex("\n") + 1]
    (run / "splits.csv").write_text(table.replace(*change, 1) if change else shorter)
    for command, remedy in (
        (lambda: train(["--resume", str(run)]), "start a new run from its weights: "),
        (lambda: evaluate(["--ckpt_path", str(run), "--accelerator=cpu"]), "remove it, and nothing is counted"),
    ):
        with pytest.raises(SystemExit):
            command()
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{run}/splits.csv is not as the run wrote it (wrong checksum): restore it, or {remedy}" in line


def test_evaluation_counts_by_content_in_any_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = splits(run)
    chosen = sorted(own["train"])[:7] + sorted(own["val"])[:5] + sorted(own["test"])[:3]
    for number, name in enumerate(chosen):  # under other names
        place = Path("other") / Path(name).parent
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("noise") / name, place / f"copy{number}.png")
    noise(Path("other"), range(1000, 1015))
    capsys.readouterr()
    evaluate(["--ckpt_path", str(run), "--accelerator=cpu", "--data.folder=other", "--split=all", "--output=out"])
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith(
        "7 of 30 images were trained on, 5 were in validation: the accuracy is too high for new images"
    )
    results = json.loads(Path("out/results.json").read_text())
    assert (results["n_trained_on"], results["n_validated_on"]) == (7, 5)
    page = " ".join(Path("out/report.html").read_text().split())
    assert '<b class="bad">7</b> of these images were trained on and <b class="bad">5</b> were in validation' in page


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (["--split=train"], "360 of 360 images were trained on, 0 were in validation"),
        (["--split=all"], "360 of 600 images were trained on, 180 were in validation"),
        (["--data.folder=moved"], "0 of 60 images were trained on, 0 were in validation"),
        (["--data.seed=1"], "42 of 60 images were trained on, 17 were in validation"),
    ],
)
def test_evaluation_of_the_same_images(
    run: Path, options: list[str], seen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("noise", "moved")
    evaluate(["--ckpt_path", str(run), "--accelerator=cpu", *options])
    assert seen in capsys.readouterr().out.splitlines()[0]


def test_the_test_split_is_enough_to_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "predictions-test.csv").read_bytes()
    noise(Path("noise"), range(600, 630))
    (Path("noise") / min(splits(run)["train"])).unlink()
    evaluate(["--ckpt_path", str(run), "--accelerator=cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seen before    0 of 60 images were trained on, 0 were in validation"
    assert lines[2].startswith("left out       30 images that the run did not have: even/0600.png, ")
    assert (run / "predictions-test.csv").read_bytes() == before


def test_a_checkpoint_alone_tells_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "model.ckpt")
    evaluate(["--ckpt_path", str(tmp_path / "model.ckpt"), "--accelerator=cpu"])
    assert capsys.readouterr().out.startswith("seen before    unknown: ")
