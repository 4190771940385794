"""Requests made from the OpenAPI document, and answers held against it, for rigs that try all."""

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

__all__ = ["RAW_ROUTES", "Asked", "Document", "Place", "RawRoute", "put", "violations"]

RawRoute = tuple[str, str, Mapping[str, Any] | None]
"""Method, path and an example body of a route that the document does not tell of."""

_HELLO = [{"role": "user", "content": "hello", "name": "word"}]
_OPTIONS = {
    "project": str(uuid4()),
    "session": "word",
    "agent": "word",
    "sticky": "word",
    "context": {"strategy": "hybrid", "memories": 2},
    "mock": {"content": "word"},
}
RAW_ROUTES: Sequence[RawRoute] = (
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/{model}", None),
    ("POST", "/v1/chat/completions", {"model": "mock/echo", "messages": _HELLO, "user": "word"}),
    (
        "POST",
        "/v1/chat/completions",
        {"model": "mock/echo", "messages": _HELLO, "helix": _OPTIONS, "stop": ["word"]},
    ),
    ("POST", "/v1/completions", {"model": "mock/echo", "prompt": "word", "suffix": "word"}),
    ("POST", "/v1/embeddings", {"model": "mock/embed", "input": "word", "user": "word"}),
    ("POST", "/v1/moderations", {"model": "mock/echo", "input": "word"}),
    ("POST", "/v1/messages", {"model": "mock/echo", "messages": _HELLO[:1], "max_tokens": 5}),
    ("POST", "/v1/messages/count_tokens", {"model": "mock/echo", "messages": _HELLO}),
    (
        "POST",
        "/v1/responses",
        {"model": "mock/echo", "input": "word", "previous_response_id": "word"},
    ),
    ("POST", "/v1/responses/input_tokens", {"model": "mock/echo", "input": "word"}),
    ("GET", "/v1/responses/{id}", None),
    ("GET", "/v1/responses/{id}/input_items", None),
    ("DELETE", "/v1/responses/{id}", None),
)
"""What the gateway serves itself, with requests that it takes."""

DEPTH_MAX = 3
Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. `route` is the path with its parameters unfilled."""

    method: str
    path: str
    route: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: Any = None
    told: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the requests of a route a text can stand: kind, and its name or keys."""

    method: str
    route: str
    kind: str
    keys: tuple[str | int, ...]


class Document:
    """An OpenAPI document, as something that requests can be made of."""

    def __init__(self, told: Mapping[str, Any], more: Sequence[RawRoute] = ()) -> None:
        self._schemas = told.get("components", {}).get("schemas", {})
        self.routes: list[tuple[str, str, Mapping[str, Any]]] = [
            (method.upper(), path, operation)
            for path, methods in sorted(told["paths"].items())
            for method, operation in sorted(methods.items())
        ]
        self.routes += [(method, path, {"example": body}) for method, path, body in more]

    def resolve(self, schema: Schema) -> Schema:
        """Return a schema, followed to where it is written."""
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        return schema

    def request(
        self,
        route: tuple[str, str, Mapping[str, Any]],
        text: Callable[[Schema], str],
        chance: random.Random,
        *,
        share: float = 0.4,
        odd: float = 0.0,
    ) -> Asked:
        """Return a request of a route. `text` makes its words, given their schema.

        `share` of what may be left out is there; `odd` of the values are of another kind than the
        document says.
        """
        method, path, told = route
        make = _Maker(self, text, chance, share, odd)
        filled = re.sub(r"\{[^}]+\}", lambda _: _quoted(text({"type": "string"})), path)
        query: list[tuple[str, str]] = []
        headers: list[tuple[str, str]] = []
        for one in told.get("parameters", []):
            if one["in"] == "path" or not (one.get("required") or chance.random() < share):
                continue
            value = make.value(one.get("schema", {}), 0)
            (query if one["in"] == "query" else headers).append((one["name"], _plain(value)))
        body = told.get("example")
        if body is None:
            content = told.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                body = make.value(content["application/json"].get("schema", {}), 0)
        return Asked(method, filled, path, tuple(query), tuple(headers), body, told)

    def places(self) -> Iterator[tuple[Place, Asked]]:
        """Yield each place of each route where a text can stand, with a request to put it into."""
        chance = random.Random(4)
        for route in self.routes:
            whole = self.request(route, lambda _: "word", chance, share=1.0)
            method, path, told = route
            for number, _ in enumerate(re.findall(r"\{[^}]+\}", path)):
                yield Place(method, path, "path", (number,)), whole
            for one in told.get("parameters", []):
                if one["in"] == "query":
                    yield Place(method, path, "query", (one["name"],)), whole
            for keys in _leaves(whole.body):
                yield Place(method, path, "body", keys), whole
                if isinstance(keys[-1], str):
                    yield Place(method, path, "key", keys), whole
            for name in ("Authorization", "Idempotency-Key", "Last-Event-ID", "X-Request-Id"):
                yield Place(method, path, "header", (name,)), whole

    def violation(self, asked: Asked, status: int, content_type: str, body: bytes) -> str | None:
        """Return how an answer is not as the document says; None when it is."""
        responses = asked.told.get("responses")
        if responses is None:
            return None
        declared = responses.get(str(status))
        if declared is None:
            if status < 400:
                return f"status {status} is not in the document"
            declared = responses.get("default")
            if declared is None:
                return f"status {status} is not in the document"
        content = declared.get("content", {})
        if not content:
            return f"{len(body)} bytes where there are none" if body else None
        if content_type not in content:
            return f"{content_type}, not {' or '.join(content)}"
        if content_type != "application/json":
            return None
        try:
            value = json.loads(body)
        except ValueError:
            return "it is not JSON"
        return next(violations(self, content[content_type].get("schema", {}), value), None)


class _Maker:
    def __init__(
        self,
        document: Document,
        text: Callable[[Schema], str],
        chance: random.Random,
        share: float,
        odd: float,
    ) -> None:
        self._document = document
        self._text = text
        self._chance = chance
        self._share = share
        self._odd = odd

    def value(self, schema: Schema, depth: int) -> Any:
        chance = self._chance
        schema = self._document.resolve(schema)
        if chance.random() < self._odd:
            return chance.choice(
                [None, True, -1, 0, 2**63, 1e308, "", self._text(schema), [], {}, [[]], {"": 1}]
            )
        for name in ("enum", "const"):
            if name in schema:
                return chance.choice(schema["enum"]) if name == "enum" else schema["const"]
        if "anyOf" in schema:
            choices = [one for one in schema["anyOf"] if one.get("type") != "null"]
            pick = choices if self._share == 1.0 else schema["anyOf"]
            return self.value(chance.choice(pick), depth)
        kind = schema.get("type")
        if kind == "object" or "properties" in schema:
            return self._object(schema, depth)
        if kind == "array":
            least = int(schema.get("minItems", 0))
            count = max(least, 1 if self._share == 1.0 else chance.randrange(3))
            return [self.value(schema.get("items", {}), depth + 1) for _ in range(count)]
        if kind in {"integer", "number"}:
            return self._number(schema, whole=kind == "integer")
        if kind == "boolean":
            return chance.random() < 0.5
        if kind == "null":
            return None
        return self._text(schema)

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        needed = schema.get("required", [])
        made = {
            name: self.value(one, depth + 1)
            for name, one in schema.get("properties", {}).items()
            if name in needed or (depth < DEPTH_MAX and self._chance.random() < self._share)
        }
        if schema.get("additionalProperties") and "properties" not in schema:
            made[self._text({"type": "string"})] = self._text({"type": "string"})
        return made

    def _number(self, schema: Schema, *, whole: bool) -> float:
        low = schema.get("minimum", schema.get("exclusiveMinimum", -3))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1_000))
        if whole:
            return self._chance.choice([int(low), int(high), self._chance.randint(low, high)])
        return self._chance.choice([float(low), float(high), self._chance.uniform(low, high)])


def put(asked: Asked, place: Place, text: str) -> Asked:
    """Return a request with a text in one place of it."""
    if place.kind == "header":
        name = str(place.keys[0])
        value = f"Bearer {text}" if name == "Authorization" else text
        return replace(asked, headers=(*asked.headers, (name, value)))
    if place.kind == "query":
        rest = [pair for pair in asked.query if pair[0] != place.keys[0]]
        return replace(asked, query=(*rest, (str(place.keys[0]), text)))
    if place.kind == "path":
        count = -1

        def fill(_: re.Match[str]) -> str:
            nonlocal count
            count += 1
            return _quoted(text if count == place.keys[0] else str(uuid4()))

        return replace(asked, path=re.sub(r"\{[^}]+\}", fill, asked.route))
    change = _renamed if place.kind == "key" else _with
    return replace(asked, body=change(asked.body, place.keys, text))


def _with(value: Any, keys: tuple[str | int, ...], text: str) -> Any:
    if not keys:
        return text
    first, rest = keys[0], keys[1:]
    if isinstance(value, list):
        return [_with(one, rest, text) if n == first else one for n, one in enumerate(value)]
    return {**value, first: _with(value[first], rest, text)}


def _renamed(value: Any, keys: tuple[str | int, ...], text: str) -> Any:
    """Return a body in which the last of `keys` is called `text`."""
    first, rest = keys[0], keys[1:]
    if isinstance(value, list):
        return [_renamed(one, rest, text) if n == first else one for n, one in enumerate(value)]
    if not rest:
        return {(text if name == first else name): one for name, one in value.items()}
    return {**value, first: _renamed(value[first], rest, text)}


def _leaves(value: Any, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the keys that lead to each text and number of a body."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _leaves(one, (*keys, name))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _leaves(one, (*keys, number))
    elif value is not None and keys:
        yield keys


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    raw = text.encode("utf-8", "surrogatepass")
    return "".join(chr(c) if c < 128 and chr(c).isalnum() else f"%{c:02X}" for c in raw)


_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def violations(document: Document, schema: Schema, value: Any, where: str = "") -> Iterator[str]:
    """Yield where a value is not as a schema says: types, properties, items, choices, bounds."""
    schema = document.resolve(schema)
    if "anyOf" in schema:
        if all(any(violations(document, one, value, where)) for one in schema["anyOf"]):
            yield f"{where or 'it'} is none of its kinds"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where or 'it'} is not one of {schema['enum']}"
    kind = schema.get("type")
    if kind is not None:
        is_number = kind in {"integer", "number"}
        if not isinstance(value, _TYPES[kind]) or (is_number and isinstance(value, bool)):
            yield f"{where or 'it'} is no {kind}"
            return
    if isinstance(value, dict):
        for name in schema.get("required", []):
            if name not in value:
                yield f"{where}.{name} is missing"
        for name, one in schema.get("properties", {}).items():
            if name in value:
                yield from violations(document, one, value[name], f"{where}.{name}")
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from violations(document, schema.get("items", {}), one, f"{where}[{number}]")
