"""Jobs of one or more processes, forked from the test's: importing Lightning again would take most of the time."""

import errno
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from litlens.cli.main import train
from litlens.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
DIGITS = [
    *("--config", str(ROOT / "configs" / "digits_cnn.yaml"), "--trainer.accelerator=cpu"),
    *(
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        "--trainer.num_sanity_val_steps=0",
    ),
    *("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs", "--trainer.limit_test_batches=2"),
]


class Slow(Callback):
    """Marks where a process is by a file, `HOOK-RANK`, and waits in that hook, unless there is a file `go`.

    It waits in runs whose folder ends with `folder`.
    """

    def __init__(self, hook: str = "", step: int = 0, seconds: float = 30, folder: str = "") -> None:
        self.folder = folder
        if hook:
            setattr(self, hook, lambda trainer, *args: self._wait(trainer, hook, step, seconds))

    def _wait(self, trainer: Trainer, hook: str, step: int, seconds: float) -> None:
        here = str(trainer.default_root_dir).endswith(self.folder)
        if here and trainer.global_step >= step and not trainer.sanity_checking:
            Path(f"{hook}-{trainer.global_rank}").touch()
            end = time.monotonic() + seconds
            while time.monotonic() < end and not Path("go").exists():
                time.sleep(0.05)


class Fails(Callback):
    """Fails in one process, in the first step or from the fourth on, while the other waits for it."""

    def __init__(self, rank: int = 0, what: str = "") -> None:
        self.rank, self.what = rank, what

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_rank != self.rank:
            return
        if self.what == "image":
            raise UserError("an image cannot be read")
        if self.what == "disk" and trainer.global_step == 3:
            os.fsync = self._full
        if self.what == "loss" and trainer.global_step == 3:  # whose gradients are finite
            step = pl_module.training_step
            pl_module.training_step = lambda *args: step(*args) + float("nan")  # type: ignore[method-assign]

    def _full(self, file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def slow(hook: str, *, step: int = 0, seconds: float = 30) -> list[str]:
    """The options by which every process marks a hook and waits in it."""
    return [
        "--trainer.callbacks+=jobs.Slow",
        f"--trainer.callbacks.hook={hook}",
        f"--trainer.callbacks.step={step}",
        f"--trainer.callbacks.seconds={seconds}",
    ]


@dataclass
class Job:
    """Processes that run the same command in one folder."""

    folder: Path
    processes: list[int] = field(default_factory=list)

    def start(self, args: list[str], environment: Mapping[str, str] | None = None) -> None:
        """Fork a process that trains; its output goes to `output-N`, N from 0."""
        number = len(self.processes)
        process = os.fork()
        if process:
            self.processes.append(process)
            return
        status = 1
        try:
            warnings.resetwarnings()  # pytest makes errors of them
            os.chdir(self.folder)
            os.environ.update(environment or {})
            for stream, name in ((1, "output"), (2, "errors")):
                os.dup2(os.open(f"{name}-{number}", os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            train(args)
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def wait_for(self, *names: str, seconds: float = 90) -> None:
        """Wait for files in the folder."""
        end = time.monotonic() + seconds
        while missing := [name for name in names if not (self.folder / name).exists()]:
            assert time.monotonic() < end, f"{missing}: {self.text('errors')}"
            time.sleep(0.02)

    def signal(self, number: int, *which: int) -> float:
        """Send a signal to some processes; when it was sent."""
        for process in which:
            os.kill(self.processes[process], number)
        return time.monotonic()

    def statuses(self, *, seconds: float = 90) -> list[int]:
        """Wait for every process; negative where a signal killed it."""
        end, ended = time.monotonic() + seconds, {}
        while len(ended) < len(self.processes):
            for process in set(self.processes) - set(ended):
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    ended[process] = os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                for process in set(self.processes) - set(ended):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
        statuses = [ended[process] for process in self.processes]
        self.processes = []
        return statuses

    def text(self, name: str) -> str:
        """What all processes have printed: `output` or `errors`."""
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"{name}-*")))

    def clear(self) -> None:
        """Remove marks and outputs."""
        for path in self.folder.glob("*-[0-9]"):
            path.unlink()

    @property
    def runs(self) -> list[Path]:
        """The run folders."""
        return sorted(self.folder.glob("runs/*/*"))


def torchrun(rank: int, *, here: int, machines: int, port: int) -> dict[str, str]:
    """What torchrun sets for one process of a job."""
    return {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank % here), "GROUP_RANK": str(rank // here)},
        **{"WORLD_SIZE": str(here * machines), "LOCAL_WORLD_SIZE": str(here), "TORCHELASTIC_RUN_ID": "none"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
    }


def slurm(rank: int, *, here: int, machines: int, port: int) -> dict[str, str]:
    """What srun sets for one task of a job, without --ntasks-per-node."""
    return {
        **{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % here), "SLURM_NODEID": str(rank // here)},
        **{"SLURM_NTASKS": str(here * machines), "SLURM_NNODES": str(machines), "SLURM_JOB_ID": "17"},
        **{"SLURM_NODELIST": "127.0.0.1", "SLURM_JOB_NAME": "train", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
    }


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
