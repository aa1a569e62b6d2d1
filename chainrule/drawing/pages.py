"""HTML pages with all they need in them, from templates that share one style. Knows no page's content."""

from collections.abc import Callable, Mapping
from typing import Any


def render(package: str, template: str, filters: Mapping[str, Callable[..., str]], values: Mapping[str, Any]) -> str:
    """The page of a template that lies in `package`; it may include "page.css", which lies here."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("chainrule.drawing", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(values)
