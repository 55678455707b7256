"""Writing checkpoints so that a kill, a full disk or a power cut at any moment leaves one to go on from."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer

from litlens.checkpoints.reading import LAST, previous_checkpoint
from litlens.errors import UserError
from litlens.files import load_tensors, write_atomically

_REMEDIES = {
    errno.EACCES: "make the folder writable",
    errno.EROFS: "make the folder writable",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
}


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's checkpoints beside their targets, onto the disk, and then in one step to their places.

    The `last.ckpt` that a new one replaces is kept as `last-previous.ckpt`, if this process has written it or read it
    to its end: a damaged one never replaces a good one. Reading verifies the archive's CRCs and runs nothing in it.

    Lightning's own writes to the system's folder for temporary files, which may be another disk or full, and does not
    wait for the disk (`_atomic_save` in lightning/fabric/utilities/cloud_io.py). It still serves s3:// and the like.
    """

    def __init__(self) -> None:
        super().__init__()
        self._complete: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises UserError, in one line, where the disk does not take the file; what was there before is kept."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        for left_over in path.parent.glob(f".{path.name}.*.part"):  # of a process that was killed
            left_over.unlink(missing_ok=True)
        keep = previous_checkpoint(path) if path.name == LAST.name and path.resolve() in self._complete else None
        try:
            write_atomically(path, _writer(checkpoint), keep=keep)
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "make room on its disk")
            if path.with_name(LAST.name).is_file():
                remedy += f", then go on with: python train.py --resume {path.parents[1]}"
            raise UserError(f"{path} cannot be written ({error.strerror or error}): {remedy}") from error
        self._complete.add(path.resolve())

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Load onto the CPU; of a file on this machine tensors and plain values, whatever `weights_only` says."""
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only)
        checkpoint = load_tensors(Path(path), kind="checkpoint")
        self._complete.add(Path(path).resolve())
        return checkpoint


def write_durably(trainer: Trainer) -> None:
    """Let a trainer write its checkpoints by `DurableCheckpointIO`, unless it was given a plugin of another kind."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = DurableCheckpointIO()


def _writer(checkpoint: dict[str, Any]) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's "unexpected pos", for whatever the file raised
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    return write
