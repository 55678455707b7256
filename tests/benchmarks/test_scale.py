"""benchmarks/scale.py on a few files; its table is of real images."""

import sys
from pathlib import Path
from typing import Any

import pytest
from image_folders import fill

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("LITLENS_CACHE", str(tmp_path / "cache"))
    import scale

    monkeypatch.setattr(scale, "WORKERS", 0)
    yield scale
    sys.modules.pop("scale")


def test_a_line_is_measured(scale: Any, tmp_path: Path) -> None:
    images = sorted(fill(tmp_path / "few", {"any": 70}).rglob("*.png"))
    scale.link(images * 4, tmp_path / "images", classes=5)
    assert len(list((tmp_path / "images" / "train").glob("*/*"))) == 280 - 2 * scale.HELD_OUT
    for cache in ("on", "off"):
        figures = scale.measure(tmp_path / "images", cache)
        assert set(figures) == set(scale.MEASURED)
        assert figures["images_per_second"] > 0
        line = {"files": 280, "cache": cache} | figures
        assert "280 files, cache" in scale.as_text(line)


def test_a_million_files_are_estimated_from_the_slope(scale: Any) -> None:
    lines = [
        {"files": files, "cache": "off", **dict.fromkeys(scale.MEASURED, 2.0 + files / 1000)} for files in (2000, 8000)
    ]
    assert scale.estimate(lines)["seconds_to_first_batch"] == pytest.approx(1002)
    assert scale.estimate(lines)["images_per_second"] == 10
