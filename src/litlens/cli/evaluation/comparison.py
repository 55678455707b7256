"""Sets the runs that were scored side by side: a table on the terminal and a page."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from litlens.data.module import ImageDataModule
from litlens.evaluation.predictions import Predictions
from litlens.evaluation.report_page import write_page
from litlens.evaluation.run_comparison import compare, render_comparison

COMPARISON_FILE = "comparison.html"


def show_comparison(runs: Mapping[str, Predictions], data: ImageDataModule, *, folder: Path, console: Console) -> None:
    """Compare every run with the first, whose data module is `data`; print a table and write comparison.html."""
    first, *others = runs
    comparisons = {name: compare(runs[first], runs[name]) for name in others}
    for name, result in comparisons.items():
        console.print(f"\n{name} against {first}")
        table = Table(show_header=False, box=None, pad_edge=False)
        for what, value in (("accuracy", result.accuracy), ("macro F1", result.f1)):
            interval = f"95 % interval {100 * value.low:+.2f} to {100 * value.high:+.2f}, paired bootstrap"
            table.add_row(what, f"{100 * value.value:+.2f} points", interval)
        only = f"correct in this run only: {len(result.only_second):,}; in the first only: {len(result.only_first):,}"
        table.add_row("McNemar's test", f"p = {result.p_value:.3g}", only)
        console.print(table, soft_wrap=False)
    page = render_comparison(runs, comparisons, image=lambda index: data.image("test", index))
    path = write_page(folder / COMPARISON_FILE, page)
    console.print(f"comparison     {path}")
