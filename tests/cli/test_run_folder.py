"""The run folder: its name, its rank, its config read back unchanged, its history."""

import csv
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from litlens.cli.processes import is_first_process
from litlens.cli.run_folder import (
    config_text,
    new_run_folder,
    read_history,
    removed_if_refused,
    run_title,
)

NAMES = [
    *("1e3", "2e5", "3e1", "1E3", "1e+3", "1e-3", "-1e3", "+1e3", "1_0e3", ".5e1", "1.e3", ".1", "1.", "1.5"),
    *("-.5e+2", ".inf", "-.inf", ".nan", "nan", "inf", "e5", "1e", "_1e3", "no", "No", "NO", "yes", "y", "n", "on"),
    *("off", "true", "True", "false", "null", "Null", "~", "None", "0", "007", "0x1F", "0o17", "0b11", "1_000"),
    *("1,000", "12:30:45", "1:30", "1:30.5", "2024-01-01", "+1", "-", "--", "+", ".", "[a]", "{a}", "*a", "&a", "!a"),
    *("!!str", "|", ">", "%a", "@a", "`a", "a'b", '"a"', "'", "\\", "<<", "=", "---", "...", "", '"'),
    *("2024-01-01 10:00:00", "a: b", "a #b", "# a", "- a", "? a", "{a: b}", " a", "a ", "a\tb", "\n", "\r", "\u0085"),
    *("\u2028", "😀", "é", "e\u0301", "中文", "x" * 200, "a b " * 50),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_class_name_is_read_back_unchanged(name: str) -> None:
    """By the parser of the command, whose YAML differs from PyYAML's."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--class_names", type=list[str])
    parser.add_argument("--rate", type=float)
    text = config_text({"class_names": [name, "a"], "rate": 1e-5})
    read = parser.parse_args(["--config", text])
    assert (read.class_names, read.rate) == ([name, "a"], 1e-5)


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "RANK": "0"}, True),
        ({"LOCAL_RANK": "0", "RANK": "8"}, False),  # the second machine of torchrun
        ({"SLURM_PROCID": "3"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),  # started by Lightning within an interactive job
        ({"NODE_RANK": "1"}, False),
    ],
)
def test_one_process_prints_and_writes(
    variables: dict[str, str], first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first
    assert new_run_folder("x", runs=tmp_path).is_dir() is first


def test_two_runs_at_once_get_two_folders(tmp_path: Path) -> None:
    assert len({new_run_folder("x", runs=tmp_path) for _ in range(3)}) == 3


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    folder = new_run_folder("x", runs=tmp_path)
    (folder / "events").write_text("")
    with pytest.raises(ValueError, match="later"), removed_if_refused(folder, kept=lambda: True):
        raise ValueError("later")
    assert folder.is_dir()
    with pytest.raises(ValueError, match="before"), removed_if_refused(folder):
        raise ValueError("before")
    assert not folder.exists()


def test_the_history_has_a_row_per_epoch(digits_runs: dict[str, Path]) -> None:
    run = digits_runs["cnn"]
    history = read_history(run)
    assert [row["epoch"] for row in history] == [0, 1]
    assert all(set(row) == {"epoch", "loss/train", "loss/val", "accuracy/train", "accuracy/val"} for row in history)
    with (run / "metrics.csv").open(newline="") as file:
        logged = [row for row in csv.DictReader(file) if row["accuracy/val"]]
    assert [row["accuracy/val"] for row in history] == [float(row["accuracy/val"]) for row in logged]


def test_rows_in_any_order_are_joined(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "accuracy/test,epoch,loss/train,loss/train_step,loss/val,step\n"
        ",1,,,0.5,20\n,0,,0.9,,3\n,0,0.8,,,10\n,0,,,0.7,10\n,1,0.6,,,20\n0.9,2,,,,21\n"
    )
    assert read_history(tmp_path) == [
        {"epoch": 0, "loss/train": 0.8, "loss/val": 0.7},
        {"epoch": 1, "loss/val": 0.5, "loss/train": 0.6},
    ]
    assert read_history(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("runs/mnist/2026/checkpoints/best.ckpt", "mnist/2026"),
        ("runs/mnist/2026/checkpoints/last.ckpt", "mnist/2026 (last)"),
        ("elsewhere/model.ckpt", "model.ckpt"),
    ],
)
def test_the_title_of_a_run(path: str, title: str) -> None:
    assert run_title(Path(path)) == title
