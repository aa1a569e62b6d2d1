"""The application: every route, and the errors that routes raise in OpenAI's form. Knows HTTP."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from chainrule.errors import ChainruleError
from chainrule.serving import looking
from chainrule.serving.endpoints import ClientLeftError
from chainrule.serving.requests import RequestError
from chainrule.serving.served import Served


def make_app(served: Served) -> Starlette:
    """The ASGI application for what is served."""
    return Starlette(
        routes=looking.routes(served),
        exception_handlers={
            RequestError: _request_error,
            ChainruleError: _mistake,
            ClientLeftError: _left,
        },
    )


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.body(), error.status, error.headers)


async def _mistake(request: Request, error: Exception) -> Response:
    """A ChainruleError is about what the client sent."""
    return await _request_error(request, RequestError(str(error)))


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it
