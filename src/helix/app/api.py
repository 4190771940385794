"""Everything but `/v1`: the domains' routers behind one FastAPI, with Helix's own errors."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import msgspec
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from helix import __version__, gateway
from helix.core.clock import Clock
from helix.core.errors import BadInput, Conflict, HelixError, NotFound, TooLarge, Unavailable
from helix.core.ids import IdSource
from helix.core.log import get_log

__all__ = ["build_api", "error_response"]

_log = get_log(__name__)
_NO_TEXT = (
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.UntranslatableCharacterError,
    UnicodeEncodeError,
)


def build_api(routers: Sequence[APIRouter], clock: Clock) -> FastAPI:
    """Return the application of these routers; every error has the shape of `/v1`."""
    api = FastAPI(
        title="Helix",
        version=__version__,
        openapi_url=None,  # made below: beside calls, not among them
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect would lead where the Host header says
        responses={"default": {"model": Refusal, "description": "A refusal or a failure."}},
    )
    for router in routers:
        api.include_router(router)

    @api.get("/api/openapi.json", include_in_schema=False)
    async def document() -> Response:
        """Return the OpenAPI document; making it the first time takes a third of a second."""
        made = await asyncio.to_thread(api.openapi)
        return Response(msgspec.json.encode(made), media_type="application/json")

    ids = IdSource()

    def handler(
        translate: Callable[[Any, str], HelixError],
    ) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def handle(request: Request, exc: Exception) -> Response:
            request_id = str(ids.next(clock.now()))
            error = translate(exc, request_id)
            if error.status >= 500 and error is not exc:
                _log.error("request_failed", exc=exc, request_id=request_id, path=request.url.path)
            _let_go(exc)
            return error_response(error, request_id)

        return handle

    api.add_exception_handler(HelixError, handler(lambda exc, _: exc))
    api.add_exception_handler(RequestValidationError, handler(_invalid))
    api.add_exception_handler(HTTPException, handler(_http))
    api.add_exception_handler(asyncpg.DataError, handler(_of_value))
    api.add_exception_handler(UnicodeEncodeError, handler(_of_value))
    api.add_exception_handler(Exception, handler(_unexpected))
    return api


def _let_go(exc: BaseException | None) -> None:
    """Part an exception that has been told of from the frames it passed.

    FastAPI's frame holds the exception it raises for a wrong body, and the body: a circle, which
    the collector, who comes rarely, would find much later. Ends where a chain comes round again.
    """
    while exc is not None and exc.__traceback__ is not None:
        exc.__traceback__ = None
        exc = exc.__cause__ or exc.__context__


def error_response(error: HelixError, request_id: str) -> Response:
    """Return an error in the shape of `/v1`, with the request's id."""
    headers = {name.decode(): value.decode() for name, value in gateway.error_headers(error)}
    return Response(
        gateway.error_body(error, request_id),
        error.status,
        {**headers, "x-helix-request-id": request_id, "x-request-id": request_id},
        "application/json",
    )


def _invalid(exc: RequestValidationError, _: str) -> HelixError:
    """Name the first field at fault, without what was sent: it may be a password."""
    first = exc.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "body"
    return BadInput(f"{where}: {first['msg']}", param=where)


def _http(exc: HTTPException, _: str) -> HelixError:
    if exc.status_code == 404:
        return NotFound("there is no such route")
    if exc.status_code == 413:
        return TooLarge(str(exc.detail))
    if exc.status_code == 503:
        return Unavailable(str(exc.detail), retry_after_s=1)
    if exc.status_code == 405:
        return _MethodNotAllowed("this route does not take that method")
    return BadInput(str(exc.detail))


def _of_value(exc: Exception, request_id: str) -> HelixError:
    """Tell a text that no PostgreSQL takes, which is the caller's, from a fault of ours."""
    if isinstance(exc, _NO_TEXT) or isinstance(exc.__cause__, UnicodeEncodeError):
        return BadInput("a text holds a character that cannot be stored: NUL, or half of a pair")
    return _unexpected(exc, request_id)


def _unexpected(_: Exception, request_id: str) -> HelixError:
    return gateway.unexpected(request_id)


class RefusalReason(BaseModel):
    """Why, in the shape of OpenAI's API; docs/errors.md lists the codes."""

    message: str
    type: str
    param: str | None
    code: str
    request_id: str


class Refusal(BaseModel):
    """Every answer with a status of 400 or more."""

    error: RefusalReason


class _MethodNotAllowed(Conflict):
    code = "method_not_allowed"
    status = 405
