"""The built-in provider that needs no network: deterministic, and labelled wherever it answers.

It speaks the true wire format. What it does is chosen by the model's name and may be changed call
by call under `helix.mock` (see `MockOptions`), so that a client's handling of slow, broken or odd
answers can be tried against a stock SDK.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import msgspec

from helix.core.clock import Clock
from helix.core.errors import BadInput
from helix.providers.errors import ModelNotFound, OperationUnsupported, UpstreamBroken
from helix.providers.types import Call, ListedModel, Operation, Probe, Provider
from helix.providers.wires.embeddings import read_embeddings
from helix.providers.wires.mock_answer import ChatAnswer, MockOptions, embedded, moderated

__all__ = ["MOCK_MODELS", "MockAdapter"]

MOCK_MODELS = (
    "echo",
    "small",
    "large",
    "slow",
    "long",
    "error",
    "unicode",
    "tools",
    "embed",
)
"""echo, small and large give the last user message back (at three prices); slow does so late;
long talks on; error refuses; unicode answers in many scripts; tools calls the first tool. Each
also completes, embeds and moderates; embed is there for clients that choose a model by its name."""

_UNICODE = (
    "Grüße, Жизнь, 生命, الحياة, חיים, ชีวิต, 생명; e\u0301 is é; "
    "👩🏽‍🚀 👨‍👩‍👧‍👦 🏴‍☠️; \u202eright to left\u202c; \u2028 \\ \" ' \t end."
)
_BY_MODEL = {
    "slow": MockOptions(delay_ms=1_000, chunk_ms=50),
    "long": MockOptions(words=2_000),
    "error": MockOptions(status=500),
    "unicode": MockOptions(content=_UNICODE),
}
DELAY_MS_MAX = 600_000
_YIELD_EVERY = 16
WORDS_MAX = 200_000


class MockAdapter:
    """Answers out of itself."""

    operations = frozenset(
        {Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS, Operation.MODERATIONS}
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._numbers = itertools.count(1)

    async def open(self, call: Call) -> "MockReply":
        """Answer a call; see `types.Adapter`."""
        model = call.route.model
        if model not in MOCK_MODELS:
            raise ModelNotFound(f"mock/{model}")
        if call.operation not in self.operations:
            raise OperationUnsupported("mock", call.operation.value)
        options = _options(model, call)
        number, created = next(self._numbers), int(self._clock.now().timestamp())
        answer: ChatAnswer | bytes
        if call.operation is Operation.EMBEDDINGS:
            asked = read_embeddings("mock", call.body)
            answer = msgspec.json.encode(embedded(asked, model))
        elif call.operation is Operation.MODERATIONS:
            answer = msgspec.json.encode(moderated(call.body, model, number))
        else:
            legacy = call.operation is Operation.COMPLETIONS
            answer = ChatAnswer(number, created, model, call.body, options, legacy=legacy)
        if options.delay_ms:
            await asyncio.sleep(options.delay_ms / 1_000)
        if options.status != 200:
            return MockReply(options.status, "application/json", iter([_refusal(options.status)]))
        if isinstance(answer, bytes):
            return MockReply(200, "application/json", iter([answer]))
        if not call.stream:
            return MockReply(200, "application/json", iter([answer.whole()]))
        return MockReply(
            200,
            "text/event-stream",
            answer.events(),
            pause_s=options.chunk_ms / 1_000,
            break_after=options.break_after,
        )

    async def models(self, provider: Provider) -> list[ListedModel]:
        """Return the models there are; see `types.Adapter`."""
        return [ListedModel(name, operations=self.operations) for name in sorted(MOCK_MODELS)]

    async def probe(self, provider: Provider) -> Probe:
        """Return that it serves; see `types.Adapter`."""
        return Probe(0.0, 200, len(MOCK_MODELS))


def _options(model: str, call: Call) -> MockOptions:
    base = _BY_MODEL.get(model, MockOptions())
    if call.mock is None:
        return base
    try:
        options = msgspec.convert({**msgspec.structs.asdict(base), **call.mock}, MockOptions)
    except msgspec.ValidationError as exc:
        raise BadInput(f"helix.mock: {exc}", param="helix.mock") from exc
    if not 0 <= options.delay_ms <= DELAY_MS_MAX or not 0 <= options.chunk_ms <= DELAY_MS_MAX:
        raise BadInput(f"helix.mock: times are 0 to {DELAY_MS_MAX} ms", param="helix.mock")
    if options.words is not None and not 0 <= options.words <= WORDS_MAX:
        raise BadInput(f"helix.mock: words are 0 to {WORDS_MAX}", param="helix.mock")
    if not 200 <= options.status <= 599:
        raise BadInput("helix.mock: status is 200 to 599", param="helix.mock")
    return options


class MockReply:
    """A reply made up here; see `types.Reply`."""

    retry_after: str | None = None

    def __init__(
        self,
        status: int,
        content_type: str,
        parts: Iterator[bytes],
        *,
        pause_s: float = 0.0,
        break_after: int | None = None,
    ) -> None:
        self.status = status
        self.content_type = content_type
        self._parts = _paced(parts, pause_s, break_after)

    async def chunk(self) -> bytes:
        """Return the next bytes, b"" at the end."""
        return await anext(self._parts, b"")

    def close(self) -> None:
        """Nothing is held."""


async def _paced(
    parts: Iterator[bytes], pause_s: float, break_after: int | None
) -> AsyncIterator[bytes]:
    for number, part in enumerate(parts):
        if break_after is not None and number >= break_after:
            raise UpstreamBroken("mock", "it was told to break off")
        if number and (pause_s or number % _YIELD_EVERY == 0):
            await asyncio.sleep(pause_s)  # also without a pause others get their turn
        yield part


def _refusal(status: int) -> bytes:
    error = {"message": f"mock: told to answer {status}", "type": "mock_error", "code": "mock"}
    return msgspec.json.encode({"error": {**error, "param": None}})
