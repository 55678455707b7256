"""The page of a folder of images that a network has named: no labels, so nothing is right or wrong."""

from collections.abc import Sequence

from litlens.evaluation.report.cards import Card
from litlens.evaluation.report.rendering import rendered


def render_labelled(
    cards: Sequence[Card],
    *,
    title: str,
    classes: Sequence[str],
    total: int,
    unreadable: Sequence[tuple[str, str]],
    no_map: str | None,
) -> str:
    """The page as HTML: the cards of the first of `total` images, and the files that are none with the reason."""
    return rendered(
        "labelled.html",
        cards=cards,
        title=title,
        classes=classes,
        total=total,
        unreadable=unreadable,
        no_map=no_map,
    )
