"""From a template to a page: everything escaped, nothing fetched, no script but the page's own."""

import hashlib
from base64 import b64encode
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from litlens.evaluation.intervals import Interval

_TEMPLATES = Path(__file__).parent / "templates"


def rendered(template: str, **values: object) -> str:
    """A page from one of the templates; whatever stands in `values` is text, never markup."""
    return _environment().get_template(template).render(**values)


def percent(share: float, digits: int = 2) -> str:
    """A share as people read it; an undefined one (NaN) is a dash."""
    return "–" if share != share else f"{100 * share:.{digits}f} %"


def percent_interval(interval: Interval, digits: int = 2) -> str:
    """`97.10 to 98.90 %`."""
    return f"{100 * interval.low:.{digits}f} to {100 * interval.high:.{digits}f} %"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    # The browser runs the script of this digest and no other: a second lock behind the escaping.
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals.update(script=Markup(script), style=Markup(style), script_digest=digest)
    environment.filters.update(percent=percent, percent_interval=percent_interval)
    return environment
