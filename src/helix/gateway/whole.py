"""An answer in one piece: fetched, recorded, and only then sent."""

from dataclasses import dataclass, field

import msgspec

from helix.core.errors import HelixError
from helix.gateway.attempts import Attempts
from helix.gateway.dialects.responses_out import readdressed
from helix.gateway.ending import Ending
from helix.gateway.errors import ClientGone, UpstreamEmpty
from helix.gateway.native import reader_of
from helix.gateway.policy import Answer, answer_of, read_answer
from helix.gateway.turn import Attempt, Cut, Turn
from helix.gateway.types import Outcome, Settlement
from helix.gateway.upstream import Upstream, read_all
from helix.providers import Operation

__all__ = ["Fetched", "Wholes", "client_body"]


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer that is committed: as the provider sent it, as read, and the row of it.

    `native` says that `body` is in the native format of the client's API.
    """

    body: bytes = field(repr=False)
    answer: Answer = field(repr=False)
    row: Settlement = field(repr=False)
    native: bool


class Wholes:
    """Makes calls that want their answer whole."""

    def __init__(self, *, upstream: Upstream, attempts: Attempts, ending: Ending) -> None:
        self._upstream = upstream
        self._attempts = attempts
        self._ending = ending

    async def fetch(self, turn: Turn) -> Fetched:
        """Make the call; on return its answer is committed. Raises its error, settled."""
        try:
            attempt, body, answer = await self._attempts.run(turn, self.once)
        except HelixError as exc:
            if turn.cut is Cut.GONE:
                await self._ending.failed(turn, None, Outcome.CANCELLED)
                raise ClientGone from exc
            await self._ending.failed(turn, exc, Outcome.FAILED)
            raise
        except BaseException:
            self._ending.unheard(turn)
            raise
        row = self._ending.completed(turn, attempt, answer)
        await self._ending.settle(turn, row)
        return Fetched(body, answer, row, attempt.operation is not turn.request.operation)

    async def once(self, turn: Turn, attempt: Attempt) -> tuple[Attempt, bytes, Answer]:
        """Make one try; return it with its answer, as sent and as read."""
        name = attempt.route.provider.name
        reply = await self._upstream.open(turn, attempt)
        try:
            body = await read_all(reply)
        finally:
            reply.close()
        if not body.strip():
            raise UpstreamEmpty(name)
        reader = reader_of(attempt.operation)
        if reader is None:
            return attempt, body, read_answer(name, body, attempt.operation)
        return attempt, body, answer_of(name, body, reader.whole)


def client_body(turn: Turn, fetched: Fetched) -> bytes:
    """Return an answer in the API of the client."""
    if fetched.native and turn.dialect.native is Operation.RESPONSES:
        return readdressed(fetched.body, fetched.answer.upstream_id or "", turn.id_text)
    if fetched.native or turn.dialect.identity:
        return fetched.body
    return turn.dialect.whole(msgspec.json.decode(fetched.body), turn.request, turn.id_text)
