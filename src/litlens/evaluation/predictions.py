"""The result of one pass over a split, and the file that holds it: all evaluation is a function of this."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from litlens.errors import UserError
from litlens.files import load_tensors, write_atomically

_COLUMNS = ["name", "label", "predicted", "probability"]
_LOGIT = "logit:"  # distinguishes a class named "label" from the column of that name
_MOST_COLUMNS = 100  # of logits; nobody reads more
_CHUNK = 2**16  # numbers at a time


@dataclass(frozen=True, eq=False)
class Predictions:
    """A network's logits `(N, K)` for N samples, with their labels `(N,)`, names and class names.

    A name identifies a sample (a file's relative path, or `test/00042`). Raises ValueError if shapes, label range or
    class names do not match.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: Sequence[str]
    class_names: Sequence[str]

    def __post_init__(self) -> None:
        logits = np.asarray(self.logits, dtype=np.float32)
        labels = np.asarray(self.labels, dtype=np.int64)
        names, class_names = list(self.names), list(self.class_names)
        if logits.shape != (len(names), len(class_names)) or labels.shape != (len(names),):
            raise ValueError(
                f"logits {logits.shape}, labels {labels.shape}, {len(names)} names and "
                f"{len(class_names)} class names do not match"
            )
        if len(set(class_names)) != len(class_names):
            raise ValueError("class names must be unique")
        if labels.size and (labels.min() < 0 or labels.max() >= len(class_names)):
            raise ValueError(f"labels from {labels.min()} to {labels.max()} with {len(class_names)} classes")
        fields = {"logits": logits, "labels": labels, "names": names, "class_names": class_names}
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @cached_property
    def _normalizer(self) -> NDArray[np.float64]:
        """The two that the log-softmax subtracts from a sample's logits, one after the other `(2, N, 1)`."""
        largest = self.logits.max(axis=1, keepdims=True, initial=-np.inf).astype(np.float64)
        with np.errstate(invalid="ignore"):  # inf - inf
            return np.stack([largest, np.log(sums_of_exponentials(self.logits, largest))])

    def _normalized(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        largest, log_sums = self._normalizer
        with np.errstate(invalid="ignore"):
            return np.asarray((logits - largest) - log_sums)

    def log_probabilities_of(self, classes: slice) -> NDArray[np.float64]:
        """Log-softmax of the logits, of some classes `(N, k)`, since those of all may fill the memory.

        It stays finite where a probability would underflow, and is NaN where a logit is NaN or +inf.
        """
        return self._normalized(self.logits[:, classes])

    @cached_property
    def log_probabilities(self) -> NDArray[np.float64]:
        """Log-softmax of the logits `(N, K)`."""
        return self.log_probabilities_of(slice(None))

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of the logits `(N, K)`."""
        return np.asarray(np.exp(self.log_probabilities))

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """The cross-entropy of every sample `(N,)` in nats."""
        own = np.take_along_axis(self.logits, self.labels[:, None], axis=1)
        return np.asarray(-self._normalized(own)[:, 0])

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The class with the largest logit `(N,)`; of several, the first; NaN counts as the largest, as in torch."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of the predicted class `(N,)`."""
        own = np.take_along_axis(self.logits, self.predicted[:, None], axis=1)
        return np.asarray(np.exp(self._normalized(own)[:, 0]))

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the predicted class is the label `(N,)`."""
        return np.asarray(self.predicted == self.labels)

    @cached_property
    def confusion_matrix(self) -> NDArray[np.int64]:
        """Counts `(K, K)`: row = label, column = predicted, as in torchmetrics and scikit-learn."""
        cells = self.labels * self.num_classes + self.predicted
        return np.bincount(cells, minlength=self.num_classes**2).reshape(self.num_classes, -1).astype(np.int64)

    @cached_property
    def finite(self) -> NDArray[np.bool_]:
        """Whether all logits of a sample are finite `(N,)`."""
        return np.asarray(np.isfinite(self.logits).all(axis=1))

    def only_finite(self) -> "Predictions":
        """The samples whose logits are all finite."""
        return self if self.finite.all() else self.subset(np.flatnonzero(self.finite))

    def subset(self, rows: Sequence[int] | NDArray[np.int64]) -> "Predictions":
        """Some samples, in the given order."""
        rows = np.asarray(rows, dtype=np.int64)
        names = [self.names[row] for row in rows]
        return Predictions(self.logits[rows], self.labels[rows], names, self.class_names)

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """The samples of several predictions of the same classes, in the order of their names."""
        logits, labels = np.concatenate([one.logits for one in parts]), np.concatenate([one.labels for one in parts])
        names = [name for one in parts for name in one.names]
        order = sorted(range(len(names)), key=lambda row: names[row])
        return cls(logits, labels, names, parts[0].class_names).subset(order)

    def save(self, path: str | Path) -> None:
        """Write a CSV that a spreadsheet opens: name, label, predicted, its probability, one logit per class.

        Logits are written with the fewest digits that read back as the same float32, so `load` is exact, and
        equal predictions give equal bytes. The file is replaced in one step. The logits of more than 100 classes are
        in a second file, of the same name with the ending `.pt`: as text they would take three times the space.
        """
        path = Path(path)
        columns = self.class_names if self.num_classes <= _MOST_COLUMNS else []
        if not columns:
            import torch

            content = {"logits": torch.from_numpy(self.logits), "class_names": self.class_names}
            write_atomically(_logits_beside(path), lambda file: torch.save(content, file))
        digits = self.logits[:, : len(columns)].astype(str)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS + [_LOGIT + name for name in columns])
        for name, label, predicted, confidence, row in zip(
            self.names, self.labels, self.predicted, self.confidence, digits, strict=True
        ):
            words = [name, self.class_names[label], self.class_names[predicted], f"{confidence:.6f}"]
            writer.writerow(words + list(row))
        write_atomically(path, text.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """Read what `save` wrote, exactly. Raises UserError where the file is missing or something else."""
        path = Path(path)
        try:
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                rows = csv.reader(file)
                header = next(rows, [])
                class_names = [column.removeprefix(_LOGIT) for column in header[len(_COLUMNS) :]]
                if header != _COLUMNS + [_LOGIT + name for name in class_names]:
                    raise UserError(f"{path}: not a table of predictions (its first line should be name,label,...)")
                if class_names:
                    return cls._from_rows(path, rows, class_names)
                stored = load_tensors(_logits_beside(path), kind="file of logits")
                return cls._from_rows(path, rows, stored["class_names"], logits=stored["logits"].numpy())
        except OSError as error:
            raise UserError(f"{path}: cannot read predictions ({error.strerror})") from error
        except csv.Error as error:
            raise UserError(f"{path}: not a table of predictions ({error})") from error

    @classmethod
    def _from_rows(
        cls,
        path: Path,
        rows: Iterator[list[str]],
        class_names: list[str],
        *,
        logits: NDArray[np.float32] | None = None,
    ) -> "Predictions":
        index = {name: k for k, name in enumerate(class_names)}
        width = len(class_names) if logits is None else 0
        names, labels, predicted, digits = [], [], [], []
        for number, row in enumerate(rows, start=1):
            try:
                name, label, guess, _, *numbers = row
                labels.append(index[label])
                predicted.append(index[guess])
                digits.append(np.array(numbers, dtype=np.float32))
            except (ValueError, KeyError) as error:
                raise UserError(f"{path}: row {number} is damaged ({error})") from error
            if len(numbers) != width:
                raise UserError(f"{path}: row {number} has {len(numbers)} logits for {width} classes")
            names.append(name)
        table = np.stack(digits) if digits else np.empty((0, width), dtype=np.float32)
        if logits is not None:
            if logits.argmax(axis=1).tolist() != predicted:
                raise UserError(f"{path}: {_logits_beside(path).name} holds other predictions: evaluate again")
            table = logits
        return cls(logits=table, labels=np.array(labels, dtype=np.int64), names=names, class_names=class_names)


def sums_of_exponentials(
    logits: NDArray[np.float32], largest: NDArray[np.float64], *, scale: float = 1.0
) -> NDArray[np.float64]:
    """Sums over classes of `exp(scale * (logits - largest))` `(N, 1)`; logits `(N, K)`, the largest of each `(N, 1)`.

    A few rows at a time, which stay in the processor's cache: all at once take ten times as long.
    """
    sums = np.empty((len(logits), 1))
    rows = max(1, _CHUNK // max(1, logits.shape[1]))
    for start in range(0, len(logits), rows):
        part = slice(start, start + rows)
        shifted = logits[part] - largest[part]
        shifted *= scale
        np.exp(shifted, out=shifted).sum(axis=1, keepdims=True, out=sums[part])
    return sums


def _logits_beside(path: Path) -> Path:
    return path.with_suffix(".pt")
