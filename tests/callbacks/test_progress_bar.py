"""The progress bar: one line of 80 columns, with images per second and the time left of the run."""

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
import rich
import torch

from litlens.callbacks.progress_bar import ImageProgressBar, _number_of


def test_a_run_in_a_terminal_of_80_columns(trainer: Any, small: Any, samples: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(rich, "_console", None)  # which the bar changes for the process
    bar, screen = ImageProgressBar(), io.StringIO()
    bar._console_kwargs = {"file": screen, "force_terminal": True, "width": 80}
    run = trainer(bar, max_epochs=3, enable_progress_bar=True)
    run.fit(small(), samples(), samples(17, 1))
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.getvalue()))
    assert max(map(len, lines)) <= 80
    assert re.search(r"Epoch 2/2 .* 3/3 .* left", "\n".join(lines))
    assert not any(line.strip().startswith(("accuracy", "0.")) for line in lines)  # no metric in a line of its own


def test_images_per_second_and_the_time_left_of_all_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = ImageProgressBar()
    bar.train_progress_bar_id, bar.images, bar.metrics = 0, 64, "val 0.983"
    bar._start = (100.0, 50)
    monkeypatch.setattr("litlens.callbacks.progress_bar.time.monotonic", lambda: 130.0)
    # 60 of 100 batches are done in the second of five epochs, ten of them by this process in 30 s.
    position = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=59))
    trainer = SimpleNamespace(num_training_batches=20, max_epochs=5, fit_loop=position)
    task = SimpleNamespace(id=0, completed=20, total=20, speed=10.0, finished=False, time_remaining=1.0)
    status = bar.configure_columns(trainer)[-1]  # type: ignore[arg-type]
    assert status.render(task).plain == "20/20  640 img/s  0:02:00 left  val 0.983"
    task.id = 1  # of validation
    assert status.render(task).plain == "20/20  640 img/s  0:00:01 left"


def test_the_images_of_a_batch() -> None:
    images, labels = torch.zeros(5, 1, 8, 8), torch.zeros(5)
    for batch in ((images, labels), [images], {"image": images}, {"pair": (images, labels)}):
        assert _number_of(batch) == 5
    assert [_number_of(batch) for batch in ("text", [], torch.tensor(1.0), 3)] == [0] * 4
