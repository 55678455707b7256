"""Checkpoints are data: anything else in the file is refused before it runs."""

from pathlib import Path
from typing import Any

from litlens.errors import UserError
from litlens.files import load_tensors
from litlens.models.classifier import CHECKPOINT_FORMAT

# In a run folder.
BEST = Path("checkpoints", "best.ckpt")
LAST = Path("checkpoints", "last.ckpt")


def previous_checkpoint(last: Path) -> Path:
    """The path of the checkpoint that was written before `last`."""
    return last.with_stem(f"{last.stem}-previous")


def checkpoint_path(run: Path) -> Path:
    """The best checkpoint of a run folder, or the path of a checkpoint itself.

    Raises UserError where there is none.
    """
    if run.is_dir():
        best = run / BEST
        if best.is_file():
            return best
        raise UserError(f"{run} holds no {BEST}: give a run folder or a checkpoint")
    if run.is_file():
        return run
    raise UserError(f"there is no run folder or checkpoint at {run}")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of litlens onto the CPU: tensors and plain values only, nothing in the file is executed.

    Raises UserError, in one line, where there is no file, the file is damaged, holds anything but tensors and plain
    values, or was not written by litlens.
    """
    path = Path(path)
    checkpoint = load_tensors(path, kind="checkpoint")
    keys: dict[str, Any] = checkpoint if isinstance(checkpoint, dict) else {}
    if not all(isinstance(keys.get(key), dict) for key in ("litlens", "state_dict")):
        raise UserError(f"{path} was not written by litlens: it lacks the key 'litlens' or 'state_dict'")
    found = checkpoint["litlens"].get("format")
    if found != CHECKPOINT_FORMAT:
        raise UserError(
            f"{path} has format {found}, this litlens reads format {CHECKPOINT_FORMAT}: use the version that wrote it"
        )
    return keys
