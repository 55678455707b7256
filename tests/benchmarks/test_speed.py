"""benchmarks/speed.py: every row runs, and a run that was stopped goes on with the rows that are missing."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import speed

    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # those of the tests
    return speed


def test_every_row_is_measured_on_tiny_data(
    speed: ModuleType, stand_ins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speed.json"
    places = ["--data", str(stand_ins / "data"), "--weights", str(stand_ins / "weights"), "--output", str(file)]
    speed.main([*places, "--quick"])
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].split() == ["ratio", "reach", "holds", "ours", "theirs", "repeats", "what"]
    assert len(lines) - 1 + shown.err.count("skipped") >= len(speed.ROWS)
    assert not file.exists()


def test_a_finished_row_is_measured_again_only_by_name_and_a_failed_one_every_time(
    speed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speed_rows.row import row

    fast_row = row("a against b", [1.0, 2.0, 4.0], [3.0, 4.0, 20.0], at_least=2.5)
    assert (fast_row.ours, fast_row.theirs, fast_row.ratio, fast_row.holds, fast_row.repeats) == (
        2.0,
        4.0,
        3.0,
        True,
        3,
    )
    assert not row("costs", [1.1], [1.0], at_most=1.02).holds
    measured = []

    def fast(options: object) -> list[object]:
        measured.append("fast")
        return [fast_row]

    def fails(options: object) -> list[object]:
        measured.append("fails")
        raise ValueError

    def skipped(options: object) -> list[object]:
        measured.append("skipped")
        raise speed.Skipped("no such package")

    monkeypatch.setattr(speed, "ROWS", {"fast": fast, "fails": fails, "skipped": skipped})
    arguments = ["--data", str(tmp_path), "--output", str(tmp_path / "speed.json")]
    for _ in range(2):
        with pytest.raises(SystemExit, match="failed: fails"):
            speed.main(arguments)
    assert measured == ["fast", "fails", "skipped", "fails", "skipped"]
    speed.main([*arguments, "--rows", "fast"])
    assert measured[5:] == ["fast"]
    written = json.loads((tmp_path / "speed.json").read_text())["rows"]
    keys = {"what", "ours", "theirs", "ratio", "reach", "holds", "repeats", "threads", "device", "versions", "date"}
    assert set(written) == {"fast"}
    assert set(written["fast"][0]) == keys
