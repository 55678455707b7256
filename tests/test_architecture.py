"""Who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "litlens"

ALLOWED: dict[str, set[str]] = {
    "data": set(),
    "models": set(),
    "explain": set(),
    "checkpoints": {"models", "data"},
    "evaluation": {"explain", "data"},
    "callbacks": {"evaluation", "explain", "checkpoints"},
    "cli": {"data", "models", "explain", "checkpoints", "evaluation", "callbacks"},
}


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        rooms |= {name.split(".")[1] for name in names if name.startswith("litlens.")}
    return rooms - {"constants", "errors", "files", "lazy", "signals"}


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_the_design_allows(room: str) -> None:
    for path in (SOURCE / room).rglob("*.py"):
        assert imported_rooms(path) <= ALLOWED[room] | {room}, path.name


def test_there_are_no_other_rooms() -> None:
    assert {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ALLOWED)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCE.parent)
    return done.stdout


def test_importing_litlens_imports_nothing_heavy() -> None:
    loaded = run("import litlens, sys; print(*sys.modules)").split()
    assert not {"torch", "lightning", "numpy", "PIL", "matplotlib"} & set(loaded)


@pytest.mark.parametrize("package", ["litlens", "litlens.callbacks", "litlens.evaluation"])
def test_every_public_name_is_where_it_is_said_to_be(package: str) -> None:
    run(f"import {package} as package; [getattr(package, name) for name in package.__all__]")


def test_help_comes_before_lightning_is_imported() -> None:
    code = "import sys; from litlens.cli.main import train; train(['--help']); print(*sys.modules)"
    assert not {"torch", "lightning", "rich", "logging", "importlib.metadata", "ast"} & set(run(code).split())
