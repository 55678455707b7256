"""The processes of a job: which is the first, how many a launcher has started, and where they meet."""

import os
from typing import TYPE_CHECKING, Any

from litlens.cli.command_line import SHELL, Given
from litlens.errors import UserError
from litlens.signals import signals

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def is_first_process() -> bool:
    """Whether this is global rank 0, which alone prints and writes; known before there is a trainer.

    torchrun sets RANK; SLURM's srun sets SLURM_PROCID, which processes that Lightning starts (LOCAL_RANK) inherit.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


def parent_of_this_command() -> int:
    """The process that has launched this one by the command itself, for `--devices`; 0 where there is none."""
    launched = os.environ.get("LOCAL_RANK", "0") != "0" and started_by_launcher() is None
    return os.getppid() if launched else 0


def started_by_launcher() -> tuple[str, int, int] | None:
    """The launcher that has started every process, how many on a machine, and on how many machines.

    None where Lightning starts them. In an interactive job of SLURM it does so, too.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return "torchrun", here, int(os.environ["WORLD_SIZE"]) // here
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", "1"))
        # Lightning's SLURMEnvironment needs the number, which srun sets where --ntasks-per-node is given.
        here = int(os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(tasks // nodes)))
        return "SLURM", here, nodes
    return None


def follow_launcher(options: Any, given: Given | None) -> None:
    """Set `devices` and `num_nodes` of a trainer to what a launcher has started; other numbers would never meet.

    `given` is the number in a config, which the launcher overrides, or on the command line: raises UserError where that
    is another one.
    """
    started = started_by_launcher()
    if started is None:
        return
    launcher, here, nodes = started
    if given is not None and given.where == SHELL and given.value not in ("auto", here):
        raise UserError(
            f"command line: --devices {given.value}: {launcher} has started {here} process(es) on each machine: "
            "remove --devices, or start as many"
        )
    options.devices, options.num_nodes = here, nodes


def meet(trainer: "Trainer") -> None:
    """Start the other processes, unless they run already, and wait until all are there. The first call alone does it.

    Of several trainers in one command, the later ones train in the processes of the first.
    """
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    launcher = trainer.strategy.launcher
    if trainer.world_size > 1 and isinstance(launcher, _SubprocessScriptLauncher):
        if not is_launched(trainer):
            signals.launches(launcher)
        launcher.launch(trainer.strategy.setup_environment)
        signals.connect()


def is_launched(trainer: "Trainer") -> bool:
    """Whether all processes have been started, so that they can meet."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return environment is not None and environment.creates_processes_externally
