"""Writing checkpoints so that a run can be resumed after a kill, a full disk or a power cut at any moment."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer

from litlens.checkpoints.reading import LAST, previous_checkpoint
from litlens.errors import UserError, quoted
from litlens.files import load_tensors, write_atomically

_REMEDIES = {
    errno.EACCES: "make the folder writable",
    errno.EROFS: "make the folder writable",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
}


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in the same folder, waits for the disk, and renames the file.

    `last.ckpt` is kept as `last-previous.ckpt` when a new one replaces it, provided that this process has written or
    read it: a damaged file never replaces a good one. Reading verifies the archive's CRCs and runs nothing in it.

    Lightning's own plugin writes to the system's temporary folder, which may be full or on another disk, and does not
    wait for the disk (`_atomic_save` in lightning/fabric/utilities/cloud_io.py). It still writes to s3:// and the like.
    """

    def __init__(self) -> None:
        super().__init__()
        self._complete: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises UserError, in one line, where the file cannot be written; the file that it would replace is kept."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        keep = previous_checkpoint(path) if path.name == LAST.name and path.resolve() in self._complete else None
        try:
            for partial in path.parent.glob(f".{path.name}.*.part"):  # of a process that was killed
                partial.unlink(missing_ok=True)
            write_atomically(path, _writer(checkpoint), keep=keep)
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "make room on its disk")
            if path.with_name(LAST.name).is_file():
                remedy += f", then resume the run: python train.py --resume {quoted(path.parents[1])}"
            raise UserError(f"{path} cannot be written ({error.strerror or error}): {remedy}") from error
        self._complete.add(path.resolve())

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Load onto the CPU. From a local file, only tensors and plain values, whatever `weights_only` says."""
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only)
        checkpoint = load_tensors(Path(path), kind="checkpoint")
        self._complete.add(Path(path).resolve())
        return checkpoint


def write_durably(trainer: Trainer) -> None:
    """Make a trainer use `DurableCheckpointIO`, unless it was given a checkpoint plugin of its own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = DurableCheckpointIO()


def _writer(checkpoint: dict[str, Any]) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's "unexpected pos", whatever error the file raised
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    return write
