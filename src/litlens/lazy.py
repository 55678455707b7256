"""The public names of a package, each imported when it is first asked for, so that importing the package is fast.

A package lists them in its `__init__.pyi`, which type checkers read in place of its `__init__.py`.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__`, which knows `__all__`, and `__dir__` of the package of that name with the `__init__.py` `file`."""

    @cache
    def homes() -> dict[str, str]:
        import ast  # the help of the commands does without

        stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
        imports = (node for node in stub.body if isinstance(node, ast.ImportFrom))
        return {alias.name: str(node.module) for node in imports for alias in node.names}

    def find(name: str) -> Any:
        if name == "__all__":
            return sorted(homes())
        if name not in homes():
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(homes()[name]), name)

    return find, lambda: sorted(homes())
