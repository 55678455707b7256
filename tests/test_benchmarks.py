"""Every benchmark and example starts, and knows the options that the docs and its docstring give it."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix() for folder in ("benchmarks", "examples") for path in (ROOT / folder).glob("*.py")
)
TEXTS = [path.read_text() for path in [*(ROOT / "docs").glob("*.md"), *(ROOT / script for script in SCRIPTS)]]
COMMANDS = sorted(set(re.findall(r"python ([\w/]+\.py[^\n`#]*)", "\n".join(TEXTS))))


def usage(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.setattr(sys, "path", [str(ROOT / script.partition("/")[0]), *sys.path])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert not end.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_starts_and_knows_the_options_of_its_documented_commands(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = usage(script, monkeypatch, capsys)
    for command in COMMANDS:
        if command.startswith(script):
            assert all(option in shown for option in re.findall(r"--\w+", command)), command


def test_the_documented_scripts_exist() -> None:
    assert {command.split()[0] for command in COMMANDS} <= {*SCRIPTS, "train.py", "evaluate.py"}
