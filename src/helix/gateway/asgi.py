"""The gateway as a raw ASGI application: /v1, /health, /ready, /metrics."""

from urllib.parse import unquote

import msgspec

from helix.accounts import Accounts, Scope
from helix.core.clock import Clock
from helix.core.errors import HelixError
from helix.core.ids import IdSource
from helix.core.log import get_log
from helix.gateway.call import Chat
from helix.gateway.errors import ClientGone, MethodNotAllowed, RouteNotFound
from helix.gateway.exchange import Exchange, Receive, Send
from helix.gateway.exchange import Scope as AsgiScope
from helix.gateway.metrics import Metrics
from helix.gateway.recorder import Recorder
from helix.gateway.render import error_body, error_event, error_headers, unexpected
from helix.ledger import Ledger
from helix.providers import ModelNotFound, Providers

__all__ = ["Surface"]

_log = get_log(__name__)
_JSON = b"application/json"
_METRICS = b"text/plain; version=0.0.4; charset=utf-8"
_READ = frozenset({"GET", "HEAD"})
_MODELS = "/v1/models/"


class Surface:
    """Answers requests; every error leaves in OpenAI's shape, and nothing else does."""

    def __init__(
        self,
        *,
        chat: Chat,
        accounts: Accounts,
        providers: Providers,
        ledger: Ledger,
        recorder: Recorder,
        metrics: Metrics,
        clock: Clock,
        version: str,
    ) -> None:
        self._chat = chat
        self._accounts = accounts
        self._providers = providers
        self._ledger = ledger
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._version = version
        self._ids = IdSource()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        exchange = Exchange(scope, receive, send, self._ids.next(self._clock.now()))
        try:
            await self._serve(scope["method"], scope["path"], exchange)
        except ClientGone:
            return
        except HelixError as exc:
            await self._refuse(exchange, exc)
        except Exception as exc:  # noqa: BLE001 - the edge: whatever it is, the client gets an answer
            _log.error("request_failed", exc=exc, request_id=exchange.id_text)
            await self._refuse(exchange, unexpected(exchange.id_text))

    async def _serve(self, method: str, path: str, exchange: Exchange) -> None:
        if path == "/v1/chat/completions":
            if method != "POST":
                raise MethodNotAllowed(method, path)
            await self._chat.handle(exchange)
            return
        if path.startswith(_MODELS) or path in {"/v1/models", "/health", "/ready", "/metrics"}:
            if method not in _READ:
                raise MethodNotAllowed(method, path)
            await self._read(path, exchange)
            return
        raise RouteNotFound(path)

    async def _read(self, path: str, exchange: Exchange) -> None:
        if path == "/health":
            await exchange.reply(200, msgspec.json.encode(self._health()), _JSON, [])
        elif path == "/ready":
            missing = self._missing()
            state = {"status": "not ready" if missing else "ready", "missing": missing}
            await exchange.reply(503 if missing else 200, msgspec.json.encode(state), _JSON, [])
        elif path == "/metrics":
            await exchange.reply(200, self._metrics.text(), _METRICS, [])
        else:
            await self._accounts.admit(
                exchange.headers.get(b"authorization"), Scope.MODELS, Scope.COMPLETIONS
            )
            body = self._models() if path == "/v1/models" else self._model(path)
            await exchange.reply(200, msgspec.json.encode(body), _JSON, [])

    def _health(self) -> dict[str, object]:
        problems = self._providers.problems()
        status = "degraded" if problems else "ok"
        return {"status": status, "version": self._version, "problems": problems}

    def _missing(self) -> list[str]:
        parts = {
            "recorder": self._recorder.connected,
            "providers": self._providers.loaded,
            "prices": self._ledger.loaded,
            "open": not self._chat.stopping,
        }
        return [name for name, there in parts.items() if not there]

    def _models(self) -> dict[str, object]:
        names = self._providers.registry.names()
        return {"object": "list", "data": [_shown(p, model) for p, model in names]}

    def _model(self, path: str) -> dict[str, object]:
        wanted = unquote(path[len(_MODELS) :])
        for provider, model in self._providers.registry.names():
            if wanted in {f"{provider}/{model}", model}:
                return _shown(provider, model)
        raise ModelNotFound(wanted)

    async def _refuse(self, exchange: Exchange, error: HelixError) -> None:
        self._metrics.refused(error.code)
        if exchange.begun:
            await exchange.end(error_event(error, exchange.id_text))
            return
        await exchange.reply(
            error.status, error_body(error, exchange.id_text), _JSON, error_headers(error)
        )


def _shown(provider: str, model: str) -> dict[str, object]:
    return {"id": f"{provider}/{model}", "object": "model", "created": 0, "owned_by": provider}
