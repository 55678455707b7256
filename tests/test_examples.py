"""The examples run as a person runs them, and say what is in the image."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision

ROOT = Path(__file__).resolve().parents[1]


def test_an_image_of_a_labrador_is_classified(shared_data: Path, shared_weights: Path) -> None:
    # A black Labrador's head in profile.
    image = shared_data / "catanddog" / "test" / "Dog" / "8101.jpg"
    weights = shared_weights / "squeezenet1_1_imagenet.pth"
    for file in (image, weights):
        if not file.is_file():
            pytest.skip(f"no file {file}")
    command = [sys.executable, str(ROOT / "examples" / "classify_image.py"), str(image)]
    options = ["--backbone", "squeezenet1_1", "--weights", str(weights)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [re.fullmatch(r" *(\d+\.\d\d)%  (.+)", line) for line in done.stdout.splitlines()]
    found = [(float(line[1]), line[2]) for line in lines if line is not None]
    assert len(found) == len(lines) == 5
    shares = [share for share, _ in found]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] > 0
    assert sum(shares) <= 100.03  # five figures, rounded
    names = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.meta["categories"]
    assert found[0][1] in names[151:269]  # the breeds of dogs
    assert found[0][1] == "Labrador retriever"
