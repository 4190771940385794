"""The FastAPI around the domains' routers: errors are told, and nothing of them is kept."""

import gc
from collections.abc import Iterator

import httpx2 as httpx
import pytest
from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from helix.app.api import build_api
from helix.core.clock import SystemClock


class Body(BaseModel):
    text: str


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(kind: type[BaseException]) -> int:
    return sum(isinstance(one, kind) for one in gc.get_objects())


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"a":' * 100_000, HTTPException),
        (b'{"text": ', RequestValidationError),
        (b'{"text": 1}', RequestValidationError),
    ],
    ids=["too deep", "no JSON", "wrong"],
)
async def test_a_refused_body_is_not_kept_until_the_collector_comes(
    body: bytes, kind: type[BaseException]
) -> None:
    """FastAPI's frame holds the body, and the exception that holds the frame."""
    router = APIRouter()

    @router.post("/texts")
    async def take(body: Body) -> str:
        return body.text

    transport = httpx.ASGITransport(app=build_api([router], SystemClock()))
    before = alive(kind)
    async with httpx.AsyncClient(transport=transport, base_url="http://helix") as client:
        for _ in range(5):
            answer = await client.post("/texts", content=body)
            assert answer.status_code == 400
    assert alive(kind) <= before
