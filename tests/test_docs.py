"""The docs site builds without a warning, and lists every public name."""

import re
from pathlib import Path

import pytest
import yaml

import litlens
import litlens.callbacks
import litlens.evaluation

ROOT = Path(__file__).resolve().parents[1]


def test_the_site_builds_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("mkdocstrings", reason="needs Python 3.11")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path)))
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
    page = (tmp_path / "api" / "index.html").read_text()
    assert "Rebuild a classifier from a checkpoint or run folder alone" in page
    for source in (ROOT / "docs").glob("*.md"):
        assert (tmp_path / source.stem.removesuffix("index") / "index.html").is_file()


def test_the_api_page_lists_every_public_name() -> None:
    listed = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)
    public = {f"{package.__name__}.{name}" for package in (litlens, litlens.callbacks) for name in package.__all__}
    twice = set(litlens.__all__)  # `litlens.evaluation` hands some of these on
    public |= {f"litlens.evaluation.{name}" for name in litlens.evaluation.__all__ if name not in twice}
    assert sorted(listed) == sorted({*public, "litlens.explain.cam.cam"})


def test_the_workflow_tests_the_oldest_and_the_newest_python_of_the_readme() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert f"Python {versions[0]} to {versions[-1]}" in (ROOT / "README.md").read_text()
    assert f"python_requires = >={versions[0]}\n" in (ROOT / "setup.cfg").read_text()


def test_pre_commit_runs_what_make_lint_runs() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"] for hook in local["hooks"]]
    lint = re.findall(r"\$\(BIN\)/(ruff \w+|mypy)", (ROOT / "Makefile").read_text())
    assert {re.match(r"ruff \w+|mypy", entry).group() for entry in entries} == set(lint)  # type: ignore[union-attr]
