"""Draw the README's picture from a run: its learning curves and its confusion matrix, as TensorBoard shows them.

python benchmarks/picture.py runs/mnist_cnn/VERSION docs/mnist_cnn.png
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from litlens.evaluation.figures import confusion_matrix_figure, learning_curves_figure
from litlens.evaluation.measures import confusion_matrix
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.style import pixels


def main() -> None:
    """Draw both figures side by side, at equal height."""
    run, target = Path(sys.argv[1]), Path(sys.argv[2])
    predictions = Predictions.load(run / "predictions-test.csv")
    drawn = [
        pixels(learning_curves_figure(history(run / "metrics.csv"))),
        pixels(confusion_matrix_figure(confusion_matrix(predictions), predictions.class_names)),
    ]
    height = min(picture.shape[0] for picture in drawn)
    scaled = [Image.fromarray(p).resize((round(p.shape[1] * height / p.shape[0]), height)) for p in drawn]
    Image.fromarray(np.concatenate([np.asarray(picture) for picture in scaled], axis=1)).quantize(256).save(target)


def history(metrics: Path) -> list[dict[str, float]]:
    """One row an epoch: the figures of training and validation, which metrics.csv has in rows of their own."""
    epochs: dict[int, dict[str, float]] = {}
    with metrics.open(newline="") as file:
        for row in csv.DictReader(file):
            known = {name: float(value) for name, value in row.items() if value and not name.endswith("/test")}
            if any(name.endswith(("/train", "/val")) for name in known):
                epochs.setdefault(int(known["epoch"]), {}).update(known)
    return [epochs[epoch] for epoch in sorted(epochs)]


if __name__ == "__main__":
    main()
