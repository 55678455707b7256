"""Sets the runs that were scored side by side: a table on the terminal and a page."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from litlens.cli.report import write_page
from litlens.data.module import ImageDataModule
from litlens.evaluation.comparison import compare
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.report.comparison_page import render_comparison

COMPARISON_FILE = "comparison.html"


def show_comparison(runs: Mapping[str, Predictions], data: ImageDataModule, *, folder: Path, console: Console) -> None:
    """Compare every run with the first, whose data module is `data`; print a table and write comparison.html."""
    first, *others = runs
    comparisons = {name: compare(runs[first], runs[name]) for name in others}
    table = Table("", "accuracy, points", "macro F1, points", "McNemar", "only it right", "only the first", box=None)
    for name, result in comparisons.items():
        table.add_row(
            name,
            *(
                f"{100 * value.value:+.2f} ({100 * value.low:+.2f} to {100 * value.high:+.2f})"
                for value in (result.accuracy, result.f1)
            ),
            f"p = {result.p_value:.3g}",
            f"{len(result.only_second):,}",
            f"{len(result.only_first):,}",
        )
    console.print(f"against the first, {first} (95 % intervals, paired bootstrap)", soft_wrap=True, markup=False)
    console.print(table)
    page = render_comparison(runs, comparisons, picture=lambda index: data.picture("test", index))
    path = write_page(folder / COMPARISON_FILE, page)
    console.print(f"comparison     {path}", soft_wrap=True, markup=False)
