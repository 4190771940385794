"""The gateway as a raw ASGI application: /v1, /health, /ready, /metrics."""

from collections.abc import Callable, Sequence
from urllib.parse import parse_qsl, unquote

import msgspec

from helix.accounts import Accounts, Scope, presented
from helix.core.clock import Clock
from helix.core.errors import HelixError
from helix.core.ids import IdSource
from helix.core.log import get_log
from helix.gateway.call import Calls
from helix.gateway.dialects import CountTokens, Dialect, InputTokens, dialects
from helix.gateway.dialects.models import (
    ModelEntry,
    Page,
    anthropic_model,
    anthropic_models,
    openai_model,
    openai_models,
)
from helix.gateway.errors import ClientGone, MethodNotAllowed, RouteNotFound
from helix.gateway.exchange import Exchange, Receive, Send
from helix.gateway.exchange import Scope as AsgiScope
from helix.gateway.kept import KeptResponses
from helix.gateway.metrics import Metrics
from helix.gateway.policy import estimate_prompt
from helix.gateway.recorder import Recorder
from helix.gateway.render import error_event, error_headers, unexpected
from helix.gateway.virtual_run import Virtuals
from helix.ledger import Ledger
from helix.providers import ModelNotFound, Providers

__all__ = ["Surface"]

_log = get_log(__name__)
_JSON = b"application/json"
_METRICS = b"text/plain; version=0.0.4; charset=utf-8"
_READ = frozenset({"GET", "HEAD"})
_POST = frozenset({"POST"})
_PLAIN = frozenset({"/health", "/ready", "/metrics"})
_MODELS = "/v1/models"
_RESPONSES = "/v1/responses/"
_MESSAGES = "/v1/messages"
_OURS = "helix"


class Surface:
    """Answers requests; every error leaves in the shape of the API that was called."""

    def __init__(
        self,
        *,
        calls: Calls,
        accounts: Accounts,
        providers: Providers,
        ledger: Ledger,
        recorder: Recorder,
        virtuals: Virtuals,
        kept: KeptResponses,
        metrics: Metrics,
        clock: Clock,
        version: str,
    ) -> None:
        self._calls = calls
        self._accounts = accounts
        self._providers = providers
        self._ledger = ledger
        self._recorder = recorder
        self._virtuals = virtuals
        self._kept = kept
        self._metrics = metrics
        self._clock = clock
        self._version = version
        self.problems: list[Callable[[], Sequence[str]]] = []
        self._ids = IdSource()
        self._dialects = dialects()
        self._counters = {one.path: one for one in (CountTokens(), InputTokens())}

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        path = scope["path"]
        exchange = Exchange(scope, receive, send, self._ids.next(self._clock.now()))
        dialect = self._dialects.get(path)
        try:
            if dialect is not None:
                _only(scope["method"], path, _POST)
                await self._calls.handle(exchange, dialect)
            else:
                await self._serve(scope, path, exchange)
        except ClientGone:
            return
        except HelixError as exc:
            await self._refuse(exchange, exc, dialect or self._nearest(path))
        except Exception as exc:  # noqa: BLE001 - the edge: whatever it is, the client gets an answer
            _log.error("request_failed", exc=exc, request_id=exchange.id_text)
            error = unexpected(exchange.id_text)
            await self._refuse(exchange, error, dialect or self._nearest(path))
        finally:
            exchange.release()

    async def _serve(self, scope: AsgiScope, path: str, exchange: Exchange) -> None:
        method = scope["method"]
        if path in _PLAIN:
            _only(method, path, _READ)
            await self._tell(path, exchange)
        elif path == _MODELS or path.startswith(_MODELS + "/"):
            _only(method, path, _READ)
            await self._models(scope, path, exchange)
        elif path in self._counters:
            _only(method, path, _POST)
            await self._count(exchange, self._counters[path])
        elif path.startswith(_RESPONSES):
            _only(method, path, frozenset({"GET", "HEAD", "DELETE"}))
            principal = await self._accounts.admit(presented(exchange.headers), Scope.COMPLETIONS)
            given = unquote(path[len(_RESPONSES) :])
            body = await self._kept.answer(principal, given, delete=method == "DELETE")
            await exchange.reply(200, body, _JSON)
        else:
            raise RouteNotFound(path)

    async def _tell(self, path: str, exchange: Exchange) -> None:
        if path == "/health":
            await exchange.reply(200, msgspec.json.encode(self._health()), _JSON)
        elif path == "/ready":
            missing = self._missing()
            state = {"status": "not ready" if missing else "ready", "missing": missing}
            await exchange.reply(503 if missing else 200, msgspec.json.encode(state), _JSON)
        else:
            await exchange.reply(200, self._metrics.text(), _METRICS)

    def _health(self) -> dict[str, object]:
        problems = [*self._providers.problems(), *(p for one in self.problems for p in one())]
        status = "degraded" if problems else "ok"
        return {"status": status, "version": self._version, "problems": problems}

    def _missing(self) -> list[str]:
        parts = {
            "recorder": self._recorder.connected,
            "storage": not self._recorder.storage_full,
            "providers": self._providers.loaded,
            "prices": self._ledger.loaded,
            "open": not self._calls.stopping,
        }
        return [name for name, there in parts.items() if not there]

    # ---- models

    async def _models(self, scope: AsgiScope, path: str, exchange: Exchange) -> None:
        principal = await self._accounts.admit(
            presented(exchange.headers), Scope.MODELS, Scope.COMPLETIONS
        )
        entries = self._entries()
        virtual = await self._virtuals.names(principal)
        entries += [ModelEntry(name, _OURS) for name in virtual]
        if principal.model_lists:
            entries = [e for e in entries if principal.may_call(e.id, _bare(e))]
        anthropic = b"anthropic-version" in exchange.headers
        if path != _MODELS:
            entry = self._entry(entries, unquote(path[len(_MODELS) + 1 :]))
            body = anthropic_model(entry) if anthropic else openai_model(entry)
        elif anthropic:
            query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
            body = anthropic_models(entries, Page.of(query))
        else:
            body = openai_models(entries)
        await exchange.reply(200, body, _JSON)

    def _entries(self) -> list[ModelEntry]:
        registry = self._providers.registry
        entries = []
        for provider, model in registry.names():
            known = registry.providers.get(provider)
            facts = None if known is None else self._providers.model_facts(known, model)
            entries.append(
                ModelEntry(
                    f"{provider}/{model}",
                    provider,
                    context_window=None if facts is None else facts.context_window,
                    max_output_tokens=None if facts is None else facts.max_output_tokens,
                )
            )
        return entries

    def _entry(self, entries: list[ModelEntry], wanted: str) -> ModelEntry:
        for entry in entries:
            if wanted in {entry.id, _bare(entry)}:
                return entry
        raise ModelNotFound(wanted)

    # ---- counting

    async def _count(self, exchange: Exchange, counter: CountTokens | InputTokens) -> None:
        self._calls.check_head(exchange)
        await self._accounts.admit(presented(exchange.headers), Scope.COMPLETIONS)
        request = await self._calls.read(counter, await self._calls.body(exchange))
        await exchange.reply(200, counter.answer(estimate_prompt(request)), _JSON)

    # ---- errors

    def _nearest(self, path: str) -> Dialect:
        """Return the dialect whose errors a client at this path understands."""
        near = path if path.startswith(_MESSAGES) else "/v1/chat/completions"
        return self._dialects[_MESSAGES if near.startswith(_MESSAGES) else near]

    async def _refuse(self, exchange: Exchange, error: HelixError, dialect: Dialect) -> None:
        self._metrics.refused(error.code)
        if exchange.begun:
            await exchange.end(error_event(error, exchange.id_text))
            return
        body = dialect.error(error, exchange.id_text)
        await exchange.reply(error.status, body, _JSON, error_headers(error))


def _bare(entry: ModelEntry) -> str:
    return entry.id.removeprefix(f"{entry.owned_by}/")


def _only(method: str, path: str, methods: frozenset[str]) -> None:
    if method not in methods:
        raise MethodNotAllowed(method, path)
