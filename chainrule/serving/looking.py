"""The page and its JSON endpoints."""

from starlette.routing import BaseRoute

from chainrule.serving.served import Served


def routes(served: Served) -> list[BaseRoute]:
    """The page's files at `/`, and what it asks under `/page/`."""
    return []
