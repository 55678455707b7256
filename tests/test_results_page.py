"""What docs/results.md and the configs state of the data is what was counted."""

import json
import re
from pathlib import Path

import pytest

from litlens.data.datasets.folder import FolderDataModule

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "results.md").read_text()


def test_the_page_is_what_the_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import results

    assert results._markdown(json.loads((ROOT / "docs" / "results.json").read_text())) == PAGE


def test_the_ceiling_of_the_fonts_is_the_one_that_was_counted() -> None:
    """`lost` are the images that no function of the pixels classifies correctly, not all that have a twin."""
    counted = json.loads((ROOT / "docs" / "fonts_ceiling.json").read_text())
    lost, ceilings = ([counted[split][key] for split in ("val", "test")] for key in ("lost", "ceiling"))
    text = " ".join(PAGE.split())
    assert f"at least {lost[0]} images of validation and {lost[1]} of test are misclassified" in text
    assert f"no network can exceed {ceilings[0]:.4f} and {ceilings[1]:.4f}" in text
    lost, ceilings = ([counted[split][f"{key}_alike"] for split in ("val", "test")] for key in ("lost", "ceiling"))
    assert f"{lost[0]} and {lost[1]} images, {ceilings[0]:.4f} and {ceilings[1]:.4f}" in text


def test_the_number_of_training_images_is_the_one_stated(shared_data: Path) -> None:
    data = FolderDataModule(shared_data / "catanddog", image_size=16, seed=42)
    data.setup()
    heads = [path.read_text().partition("\ndata:")[0] for path in (ROOT / "configs").glob("catdog_*.yaml")]
    said = [number for text in heads for number in re.findall(r"(\d+) images", text)]
    said += re.findall(r"from scratch on (\d+) images", PAGE)
    assert len(said) >= 4
    assert set(said) == {str(len(data.samples("train")))}
