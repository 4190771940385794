"""Two tenants, and one that tries everything: `python -m rigs.tenancy [--short] [--attempts N]`.

In a throwaway home both tenants get a row in every table, B's filled with a canary. A then tries,
over HTTP with a key of every scope, each id of B in the path, query, body and headers of every
route of the OpenAPI document and of /v1; and over SQL, logged in as a member of helix_app alone,
every statement there is on every table, view and function, with the grants as they are and with
every grant there could be (so that row-level security is what is tried). An attempt fails when
anything of B comes back that was not sent, when an id of B's is answered otherwise than one of
nobody's, or when a row of B's is not afterwards as it was before. Then many tenants share five
pooled connections, with cancels and errors (A4). Last, leaks are planted, which must be found.
Exits 1 when anything was not as promised.
"""

import argparse
import asyncio
import json
import logging
import random
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import uvicorn

from bench.machine import facts
from helix import app as wiring
from helix.accounts import Scope, Store
from helix.accounts.policy import key_from_random, key_hash, key_prefix
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.db import Connection, Database, PoolLimits, Role, connect
from helix.core.instance import load_keyring, make_home
from helix.operations.migrate import upgrade
from helix.operations.postgres import embedded_postgres
from tests.schema.canary import CANARY, plant
from tests.schema.tenants import A, B, Tenants, settle

_TENANT_TABLES = (
    "SELECT relname FROM pg_class WHERE relrowsecurity AND NOT relispartition ORDER BY 1"
)
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_VOLATILE = re.compile(r'"request_id":"[^"]*"')
_CANARY_HEX = CANARY.encode().hex()
_PROBE = CANARY[:8]
"""What A guesses of B's texts; the whole is nowhere but in B's rows."""
_SLOW = ("/api/auth/", "/api/me/password")
_STREAMS = ("/events",)
_CLIENTS = 6
_TIMEOUT_S = 120.0
Leak = str


@dataclass
class Tally:
    """Attempts by kind, how long they took, and what was wrong."""

    attempts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    refused: Counter[str] = field(default_factory=Counter)
    leaks: list[Leak] = field(default_factory=list)

    def leak(self, what: Leak) -> None:
        self.leaks.append(what[:400])


@dataclass
class World:
    """Helix on a port with two tenants in its database.

    `ids` are the ids of B's that A tries; `secrets` the others, which A never says itself.
    """

    url: str
    database_url: str
    key: str
    tenants: Tenants
    ids: list[str]
    secrets: frozenset[str]
    document: dict[str, Any]
    tables: list[str]
    owner: Connection
    chance: random.Random
    until_s: float = float("inf")
    _spares: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    def spare(self, table: str, tenant: int) -> dict[str, Any]:
        """Return a row of a tenant's that is nowhere; made once, the making is half of the time."""
        found = self._spares.get((table, tenant))
        if found is None:
            found = self._spares[table, tenant] = self.tenants.spare(table, tenant)
        return dict(found)

    def over(self) -> bool:
        """Whether the time for this part is over."""
        return time.monotonic() > self.until_s


def _ids_of(tenants: Tenants, tables: list[str], tenant: int) -> set[str]:
    """Return every id in the tenant's rows of these tables."""
    rows = [tenants.rows.made[table][tenant] for table in tables]
    return set(_ID.findall(json.dumps(rows, default=str)))


@asynccontextmanager
async def _world(home: Path, chance: random.Random) -> AsyncIterator[World]:
    settings = load_settings({}, home=home, probe_interval_s=0, worker_concurrency=0)
    make_home(home)
    keyring = load_keyring(settings, create=True)
    async with embedded_postgres(settings) as server:
        await upgrade(server.url)
        owner = await connect(server.url)
        tenants = await settle(owner)
        key = await _make_key(owner, tenants.users[A])
        rows = await owner.fetch(_TENANT_TABLES)
        tables = [row["relname"] for row in rows]
        shared = sorted(set(tenants.rows.made) - set(tables))
        everybodys = _ids_of(tenants, shared, A) | _ids_of(tenants, shared, B)
        everybodys |= _ids_of(tenants, tables, A)
        theirs = sorted(_ids_of(tenants, tables, B) - everybodys)
        chance.shuffle(theirs)
        half = len(theirs) // 2
        await plant(owner, tenants, B)
        await owner.execute("DELETE FROM memory_peers")  # no node to talk to
        # Helix itself releases what is past its time; what changes here is to be A's doing alone.
        await owner.execute("UPDATE budget_reservations SET expires_at = now() + interval '1 year'")
        db = Database(server.url, {role: PoolLimits(maximum=8) for role in Role})
        app = wiring.build(settings, db, keyring, SystemClock())
        config = uvicorn.Config(app, port=0, lifespan="on", log_config=None, access_log=False)
        http = uvicorn.Server(config)
        serving = asyncio.create_task(http._serve())  # noqa: SLF001 - without its signal handlers
        while not http.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        port = http.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:
            document = await (await session.get(f"{url}/api/openapi.json")).json()
        yield World(
            url=url,
            database_url=server.url,
            key=key,
            tenants=tenants,
            ids=theirs[:half],
            secrets=frozenset(theirs[half:]),
            document=document,
            tables=tables,
            owner=owner,
            chance=chance,
        )
        http.should_exit = True
        await serving
        await db.close()
        await owner.close()


async def _make_key(owner: Connection, user_id: UUID) -> str:
    key = key_from_random(random.Random(1).randbytes(24))
    await owner.execute("UPDATE users SET status = 'active', role = 'user' WHERE id = $1", user_id)
    await Store().insert_key(
        owner,
        key_id=uuid4(),
        user_id=user_id,
        key_hash=key_hash(key),
        prefix=key_prefix(key),
        name="rig",
        scopes=frozenset(Scope) - {Scope.ADMIN},
        rate_limit=2_000_000_000,
        expires_at=None,
        now=datetime.now(UTC),
    )
    await owner.execute(
        "UPDATE users SET rate_limit = NULL, tokens_per_minute = NULL, parallel_max = NULL "
        "WHERE id = $1",
        user_id,
    )
    await owner.execute("DELETE FROM budgets WHERE user_id = $1", user_id)
    return key


async def _standing(world: World) -> dict[str, str]:
    """Return a digest of every row of B's, by table."""
    tenants, found = world.tenants, {}
    for table in world.tables:
        key = tenants.key(table, B)
        where = " AND ".join(f"{name}::text = '{value}'" for name, value in key.items())
        found[table] = await world.owner.fetchval(
            f"SELECT md5(string_agg(to_jsonb(t)::text, '')) FROM {table} AS t WHERE {where}"
        )
    return found


# ---- over HTTP -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """One request of A's; `theirs` is the id of B's it is about, if one is."""

    method: str
    path: str
    kind: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    theirs: str | None = None
    route: str = ""

    def about(self, other: str) -> "Attempt":
        """Return the same attempt with another id in the place of B's."""
        if self.theirs is None:
            return self

        def swap(text: str) -> str:
            return text.replace(str(self.theirs), other)

        body = None if self.body is None else json.loads(swap(json.dumps(self.body)))
        return Attempt(
            self.method,
            swap(self.path),
            self.kind,
            tuple((k, swap(v)) for k, v in self.query),
            body,
            tuple((k, swap(v)) for k, v in self.headers),
            other,
            self.route,
        )


class Doors:
    """Makes attempts out of the OpenAPI document."""

    def __init__(self, world: World) -> None:
        self._world, self._chance = world, world.chance
        self._routes = [
            (method.upper(), path, told)
            for path, methods in sorted(world.document["paths"].items())
            for method, told in sorted(methods.items())
        ]

    def exhaustive(self) -> list[Attempt]:
        """Return every route with every id of B's in each place of its path, one body a route."""
        found = []
        for method, path, told in self._routes:
            if "{" not in path:
                continue
            first = self._world.ids[0]
            filled = re.sub(r"\{[^}]+\}", first, path)
            body = self._body(told, first)
            one = Attempt(method, filled, "path", body=body, theirs=first, route=f"{method} {path}")
            found += [one.about(theirs) for theirs in self._world.ids]
        for theirs in self._world.ids:
            found += [
                Attempt("GET", f"/v1/responses/resp_{theirs.replace('-', '')}", "v1 path"),
                Attempt("GET", f"/v1/responses/{theirs}", "v1 path", theirs=theirs),
                Attempt("DELETE", f"/v1/responses/{theirs}", "v1 path", theirs=theirs),
            ]
        return found

    def any(self) -> Attempt:
        """Return an attempt by chance: ids of B's, and the canary, wherever something goes."""
        if self._chance.random() < 0.25:
            return self._call()
        method, path, told = self._chance.choice(self._routes)
        while path.startswith(_SLOW) and self._chance.random() > 0.002:
            method, path, told = self._chance.choice(self._routes)
        theirs = self._chance.choice(self._world.ids)
        filled = re.sub(r"\{[^}]+\}", theirs, path)
        query = [
            (one["name"], self._word(one.get("schema", {}), theirs))
            for one in told.get("parameters", [])
            if one["in"] == "query" and self._chance.random() < 0.7
        ]
        query += [
            (name, theirs)
            for name in (
                "user_id",
                "tenant",
                "after",
                "after_id",
                "cursor",
                "sort",
                "order",
                "filter",
            )
            if self._chance.random() < 0.1
        ]
        headers = []
        if self._chance.random() < 0.3:
            name = self._chance.choice(
                ["Idempotency-Key", "X-Helix-User", "X-Tenant-Id", "Last-Event-ID", "X-Request-Id"]
            )
            headers.append((name, self._chance.choice([theirs, _PROBE])))
        return Attempt(
            method,
            filled,
            "query, body, header",
            tuple(query),
            self._body(told, theirs),
            tuple(headers),
            theirs,
        )

    def _call(self) -> Attempt:
        """Return a model call that refers to something of B's."""
        theirs = self._chance.choice(self._world.ids)
        options = {
            name: theirs
            for name in ("project", "session", "agent", "prompt", "task", "budget", "conversation",
                         "sticky", "project_id", "conversation_id", "memory_id")
            if self._chance.random() < 0.25
        }  # fmt: skip
        if self._chance.random() < 0.3:
            options["context"] = {"conversation_id": theirs}  # type: ignore[assignment]
        headers = [("Idempotency-Key", self._chance.choice([theirs, _PROBE]))]
        text = self._chance.choice(["hello", theirs])
        if self._chance.random() < 0.5:
            body: dict[str, Any] = {"model": "mock/echo", "input": text, "helix": options}
            body |= {"previous_response_id": theirs} if self._chance.random() < 0.5 else {}
            return Attempt("POST", "/v1/responses", "v1 body", (), body, tuple(headers), theirs)
        body = {
            "model": self._chance.choice(["mock/echo", f"ensemble/{_PROBE}", f"debate/{theirs}"]),
            "messages": [{"role": "user", "content": text}],
            "user": theirs,
            "helix": options,
        }
        return Attempt("POST", "/v1/chat/completions", "v1 body", (), body, tuple(headers), theirs)

    def _word(self, schema: Mapping[str, Any], theirs: str) -> str:
        kinds = {schema.get("type"), *(one.get("type") for one in schema.get("anyOf", []))}
        if "integer" in kinds:
            return "100"
        if "boolean" in kinds:
            return self._chance.choice(["true", "false"])
        return self._chance.choice([theirs, _PROBE, f"-{theirs}", "%"])

    def _body(self, told: Mapping[str, Any], theirs: str) -> Any:
        content = told.get("requestBody", {}).get("content", {}).get("application/json")
        return None if content is None else self._value(content["schema"], theirs, 0)

    def _value(self, schema: Mapping[str, Any], theirs: str, depth: int) -> Any:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return self._value(self._world.document["components"]["schemas"][name], theirs, depth)
        if "enum" in schema:
            return self._chance.choice(schema["enum"])
        if "const" in schema:
            return schema["const"]
        if "anyOf" in schema:
            return self._value(self._chance.choice(schema["anyOf"]), theirs, depth)
        kind = schema.get("type")
        if kind == "object" or "properties" in schema:
            needed = schema.get("required", [])
            return {
                name: self._value(one, theirs, depth + 1)
                for name, one in schema.get("properties", {}).items()
                if name in needed or (depth < 3 and self._chance.random() < 0.4)
            }
        if kind == "array":
            return [self._value(schema.get("items", {}), theirs, depth + 1)]
        if kind == "integer":
            return int(schema.get("minimum", 1))
        if kind == "number":
            return float(schema.get("minimum", 1))
        if kind == "boolean":
            return self._chance.random() < 0.5
        if kind == "null":
            return None
        if schema.get("format") == "date-time":
            return "2026-11-22T12:00:00Z"
        return self._chance.choice([theirs, theirs, "hello"])


async def _send(session: aiohttp.ClientSession, world: World, one: Attempt) -> tuple[int, str]:
    """Send an attempt, again when the server had just closed the idle connection."""
    try:
        return await _send_once(session, world, one)
    except aiohttp.ClientConnectionError:
        return await _send_once(session, world, one)


async def _send_once(session: aiohttp.ClientSession, world: World, one: Attempt) -> tuple[int, str]:
    """Return the status and all that came back, headers too; of a stream its beginning."""
    headers = {"Authorization": f"Bearer {world.key}", **dict(one.headers)}
    async with session.request(
        one.method, world.url + one.path, params=list(one.query), json=one.body, headers=headers
    ) as answer:
        told = " ".join(f"{k}: {v}" for k, v in answer.headers.items())
        if "event-stream" in answer.headers.get("Content-Type", ""):
            try:
                async with asyncio.timeout(0.05):
                    body = await answer.content.read(65_536)
            except TimeoutError:
                body = b""
        else:
            body = await answer.read()
        return answer.status, told + "\n" + body.decode(errors="replace")


def _foreign(world: World, one: Attempt, told: str) -> str | None:
    """Return what of B's came back that A did not send."""
    sent = f"{one.path} {one.query} {json.dumps(one.body)} {one.headers}"
    lowered = told.lower()
    if CANARY in told and CANARY not in sent:
        return CANARY
    if _CANARY_HEX in lowered:
        return _CANARY_HEX
    for found in set[str](_ID.findall(lowered)):
        if found in world.secrets and found not in sent:
            return found
    return None


def _shape(one: Attempt, told: str) -> str:
    body = _VOLATILE.sub("", told.partition("\n")[2])
    return body if one.theirs is None else body.replace(one.theirs, "ID")


async def _try_http(world: World, attempts: int, tally: Tally) -> None:
    doors = Doors(world)
    waiting = doors.exhaustive()
    world.chance.shuffle(waiting)
    waiting = waiting[: attempts * 2 // 3]
    total = attempts - len(waiting)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    nobodys: dict[str, tuple[int, str]] = {}

    async def client(session: aiohttp.ClientSession, share: list[Attempt]) -> None:
        for one in share:
            if world.over():
                break
            began = time.monotonic()
            status, told = await _send(session, world, one)
            tally.seconds[f"HTTP {one.kind}"] += time.monotonic() - began
            tally.attempts[f"HTTP {one.kind}"] += 1
            tally.refused[f"HTTP {one.kind}"] += status >= 400
            if status >= 500:
                tally.leak(
                    f"{one.method} {one.path} {one.query} {one.body}: {status} {told[-200:]}"
                )
            if (found := _foreign(world, one, told)) is not None:
                tally.leak(f"{one.method} {one.path} {one.query} {one.body}: {found} in {told!r}")
            if one.kind != "path":
                continue
            if one.route not in nobodys:
                other = one.about(str(uuid4()))
                again, said = await _send(session, world, other)
                nobodys[one.route] = (again, _shape(other, said))
            if nobodys[one.route] != (status, _shape(one, told)):
                tally.leak(
                    f"{one.method} {one.path}: {status} {_shape(one, told)[:120]} but "
                    f"{nobodys[one.route]} for nobody's"
                )

    waiting += [doors.any() for _ in range(total)]
    async with aiohttp.ClientSession(timeout=timeout) as session:
        shares = [waiting[i::_CLIENTS] for i in range(_CLIENTS)]
        await asyncio.gather(*(client(session, share) for share in shares))


# ---- over SQL ------------------------------------------------------------------------------------

_LOGIN = "rig_tenant"
_RELATIONS = """
SELECT c.relname AS name, c.relkind::text AS kind FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e') ORDER BY 1
"""
_FUNCTIONS = """
SELECT p.oid::regprocedure::text AS signature, p.proname AS name, p.proretset AS many,
       ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) AS t) AS types
FROM pg_proc AS p
WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f'
  AND p.prorettype <> 'trigger'::regtype
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e') ORDER BY 1
"""


class Statements:
    """Makes statements, with values of B's, out of the catalogue."""

    def __init__(self, world: World, relations: list[Any], functions: list[Any]) -> None:
        self._world, self._chance = world, world.chance
        self._relations, self._functions = relations, functions
        self._tables = world.tables

    def any(self) -> tuple[str, str]:
        """Return a kind of statement and the statement."""
        if self._chance.random() < 0.12:
            return self._function()
        if self._chance.random() < 0.03:
            return "SET ROLE", self._chance.choice(
                ["SET ROLE helix_operator", "SET ROLE helix_recorder", "SET ROLE helix",
                 "SET SESSION AUTHORIZATION helix", "SET row_security = off"]
            )  # fmt: skip
        relation = self._chance.choice(self._tables)
        if self._chance.random() < 0.2:
            relation = self._chance.choice(self._relations)["name"]
        if relation not in self._tables:
            return "view", self._chance.choice(
                [
                    "SELECT * FROM {0}",
                    "COPY (SELECT * FROM {0}) TO STDOUT",
                    "EXPLAIN ANALYZE TABLE {0}",
                    "SELECT to_jsonb(t) FROM {0} AS t",
                ]
            ).format(relation)
        return self._on_table(relation)

    def _where(self, table: str, tenant: int = B) -> str:
        key = self._world.tenants.key(table, tenant)
        return " AND ".join(f"{name}::text = '{value}'" for name, value in key.items())

    def _on_table(self, table: str) -> tuple[str, str]:
        tenants, where = self._world.tenants, self._where(table)
        columns = [c.name for c in tenants.shape.columns[table]]
        column = self._chance.choice(columns)
        row = self._world.spare(table, self._chance.choice([A, B]))
        if self._chance.random() < 0.5:  # B's own row again
            row = {**row, **tenants.key(table, B)}
        names = ", ".join(f'"{name}"' for name in row)
        text = json.dumps(row, default=str).replace("'", "''")
        insert = (
            f"INSERT INTO {table} ({names}) SELECT {names} "
            f"FROM jsonb_populate_record(NULL::{table}, '{text}')"
        )
        keys = ", ".join(tenants.keys[table])
        theirs = self._chance.choice(self._world.ids)
        references = tenants.references(table, B)
        mine = self._where(table, A)
        upsert = f'{insert} ON CONFLICT ({keys}) DO UPDATE SET "{column}" = {table}."{column}"'
        merge = f"MERGE INTO {table} AS t USING (SELECT 1) AS s ON {where}"
        probe = insert
        if references:
            _, foreign = self._chance.choice(references)
            row = {**self._world.spare(table, A), **foreign}
            said = json.dumps(row, default=str).replace("'", "''")
            probe = (
                f"INSERT INTO {table} ({', '.join(row)}) SELECT {', '.join(row)} "
                f"FROM jsonb_populate_record(NULL::{table}, '{said}')"
            )
        return self._chance.choice(
            [
                ("SELECT", f"SELECT * FROM {table}"),
                ("SELECT", f"SELECT * FROM {table} WHERE {where}"),
                ("SELECT", f'SELECT "{column}" FROM {table} ORDER BY random() LIMIT 100'),
                ("SELECT", f"SELECT string_agg(t::text, '') FROM {table} AS t"),
                ("SELECT", f"SELECT * FROM {table} AS t WHERE t::text LIKE '%{theirs}%'"),
                ("SELECT FOR UPDATE", f"SELECT * FROM {table} WHERE {where} FOR UPDATE"),
                ("TABLESAMPLE", f"SELECT * FROM {table} TABLESAMPLE BERNOULLI (100)"),
                ("leaky function", f"SELECT 1 FROM {table} AS t WHERE pg_temp.spy(t::text)"),
                ("CTE", f"WITH x AS MATERIALIZED (TABLE {table}) SELECT * FROM x WHERE {where}"),
                ("UPDATE", f'UPDATE {table} SET "{column}" = "{column}" WHERE {where} RETURNING *'),
                ("UPDATE", f'UPDATE {table} SET "{column}" = NULL WHERE NOT ({mine})'),
                ("DELETE", f"DELETE FROM {table} WHERE {where} RETURNING *"),
                ("DELETE", f"DELETE FROM {table} WHERE NOT ({mine})"),
                ("INSERT", f"{insert} RETURNING *"),
                ("ON CONFLICT", f"{insert} ON CONFLICT DO NOTHING RETURNING *"),
                ("ON CONFLICT", f"{upsert} RETURNING {table}.*"),
                ("MERGE", f"{merge} WHEN MATCHED THEN DELETE"),
                ("COPY", f"COPY {table} TO STDOUT"),
                ("COPY", f"COPY (SELECT * FROM {table} WHERE {where}) TO STDOUT"),
                ("TRUNCATE", f"TRUNCATE {table} CASCADE"),
                ("FK probe", f"{probe} RETURNING *"),
                ("EXPLAIN", f"EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM {table} WHERE {where}"),
                ("EXPLAIN", f"EXPLAIN (ANALYZE) DELETE FROM {table} WHERE {where}"),
                ("statistics", f"SELECT s::text FROM pg_stats s WHERE tablename LIKE '{table}%'"),
                ("partition", f"SELECT * FROM {table}_default"),
            ]
        )  # fmt: skip

    def _function(self) -> tuple[str, str]:
        one = self._chance.choice(self._functions)
        arguments = ", ".join(self._argument(kind) for kind in one["types"])
        name = one["name"]
        return "function", f"SELECT * FROM {name}({arguments}) AS f"

    def _argument(self, kind: str) -> str:
        theirs = self._chance.choice([*self._world.ids, str(self._world.tenants.users[B])])
        if kind.endswith("[]"):
            return f"ARRAY[{self._argument(kind.removesuffix('[]'))}]"
        values = {
            "uuid": f"'{theirs}'::uuid",
            "integer": "1",
            "bigint": "1",
            "smallint": "1",
            "boolean": "true",
            "numeric": "1",
            "double precision": "0.5",
            "jsonb": "'[]'::jsonb",
            "interval": "interval '1000 days'",
            "xid8": "'0'::xid8",
            "bytea": "'\\x00'::bytea",
            "regclass": f"'{self._chance.choice(self._tables)}'::regclass",
            "date": "date '2026-01-01'",
        }
        if kind.startswith("timestamp"):
            return "timestamptz '2000-01-01'"
        if kind in self._tables:
            return f"NULL::{kind}"
        if kind.startswith(("vector", "halfvec")):
            return f"'[{','.join(['1'] * 384)}]'::{kind}"
        return values.get(
            kind, f"'{theirs}'::text" if kind in {"text", "character varying"} else "NULL"
        )


async def _run(conn: Connection, statement: str) -> str:
    """Run a statement in a savepoint; return all it gave back."""
    if statement.startswith("COPY"):
        out = bytearray()

        async def take(data: bytes) -> None:
            out.extend(data)

        inner = statement.removeprefix("COPY ").removesuffix(" TO STDOUT")
        query = inner[1:-1] if inner.startswith("(") else f"TABLE {inner}"
        await conn.copy_from_query(query, output=take)
        return out.decode(errors="replace")
    rows = await conn.fetch(statement)
    return " ".join(str(dict(row)) for row in rows)


async def _try_sql(world: World, attempts: int, tally: Tally, *, label: str) -> None:
    owner = await connect(world.database_url)
    relations, functions = await owner.fetch(_RELATIONS), await owner.fetch(_FUNCTIONS)
    await owner.close()
    statements = Statements(world, relations, functions)
    head, _, query = world.database_url.partition("?")
    url = f"postgresql://{_LOGIN}@/{head.rpartition('/')[2]}?{query}"
    conn = await connect(url, role=Role.APP, application_name="rig tenancy")
    noticed: list[str] = []
    conn.add_log_listener(lambda _, message: noticed.append(str(message)))
    await conn.execute(
        "CREATE FUNCTION pg_temp.spy(t text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS "
        "$$ BEGIN RAISE NOTICE '%', t; RETURN true; END $$"
    )
    tenant = f"SELECT set_config('helix.tenant', '{world.tenants.users[A]}', true)"
    await conn.execute("SET statement_timeout = '5s'")
    for _ in range(attempts):
        if world.over():
            break
        kind, statement = statements.any()
        began = time.monotonic()
        await conn.execute(f"BEGIN; {tenant}")
        told = ""
        try:
            told = await _run(conn, statement)
            if kind == "SET ROLE":  # if it passed, who are we?
                told += await _run(conn, "SELECT * FROM projects")
        except asyncpg.PostgresError as exc:
            tally.refused[f"SQL {label} {kind}"] += 1
            told = _said(exc, statement)
        except (asyncpg.InterfaceError, asyncpg.InternalClientError, ValueError) as exc:
            tally.refused[f"SQL {label} {kind}"] += 1
            told = str(exc)
        await conn.execute("ROLLBACK")
        tally.seconds[f"SQL {label} {kind}"] += time.monotonic() - began
        tally.attempts[f"SQL {label} {kind}"] += 1
        told += " ".join(noticed)
        noticed.clear()
        sent = statement.lower()
        leaked = [i for i in set(_ID.findall(told.lower())) if i in world.secrets and i not in sent]
        if CANARY in told or _CANARY_HEX in told or leaked:
            tally.leak(f"{label}: {statement[:200]}: {leaked[:2]} {told[:150]!r}")
    await conn.close()


def _said(exc: asyncpg.PostgresError, statement: str) -> str:
    """Return what an error tells, without what the statement itself said."""
    parts = [str(exc), str(getattr(exc, "detail", "") or ""), str(getattr(exc, "hint", "") or "")]
    return " ".join(parts).replace(statement, "")


async def _commit_writes(world: World, attempts: int, tally: Tally) -> None:
    """Write at B's rows without undoing it; whether they stayed as they were is seen afterwards."""
    statements = Statements(world, await world.owner.fetch(_RELATIONS), [])
    conn = await connect(world.database_url, role=Role.APP)
    writes = ("UPDATE", "DELETE", "MERGE", "ON CONFLICT", "INSERT", "FK probe")
    done = 0
    while done < attempts and not world.over():
        table = world.chance.choice(world.tables)
        kind, statement = statements._on_table(table)  # noqa: SLF001 - of this module
        if kind not in writes or (kind in {"DELETE", "UPDATE"} and "NOT" in statement):
            continue
        try:
            async with conn.transaction():
                await conn.execute(
                    "SELECT set_config('helix.tenant', $1, true)", str(world.tenants.users[A])
                )
                await conn.execute(statement)
        except asyncpg.PostgresError:
            tally.refused[f"SQL committed {kind}"] += 1
        tally.attempts[f"SQL committed {kind}"] += 1
        done += 1
    await conn.close()


# ---- many tenants, five connections (A4) ---------------------------------------------------------


async def _share_pool(world: World, turns: int, tally: Tally) -> None:
    owner = world.owner
    users = [
        await owner.fetchval(
            "INSERT INTO users (email, password_hash) VALUES ($1, '!') RETURNING id", f"t{n}@rig"
        )
        for n in range(50)
    ]
    for user in users:
        await owner.execute(
            "INSERT INTO projects (user_id, name, language) VALUES ($1, 'p', 'c')", user
        )
    db = Database(world.database_url, {Role.APP: PoolLimits(maximum=5, acquire_timeout_s=60)})
    chance = random.Random(3)
    wrong = 0

    async def turn(user: UUID, mood: float, delay_s: float) -> None:
        nonlocal wrong
        async with db.transaction(Role.APP, tenant=user) as conn:
            if mood < 0.2:
                await conn.execute("SELECT pg_sleep(0.002)")
            if mood < 0.1:
                await conn.execute("SELECT 1 / 0")
            rows = await conn.fetch("SELECT user_id FROM projects")
            wrong += [row["user_id"] for row in rows] != [user]

    async def one() -> None:
        nonlocal wrong
        mood, user = chance.random(), chance.choice(users)
        task = asyncio.create_task(turn(user, mood, chance.random()))
        if mood > 0.85:
            await asyncio.sleep(chance.random() * 0.003)
            task.cancel()
        try:
            await task
        except (asyncio.CancelledError, asyncpg.PostgresError):
            tally.refused["pool turn"] += 1
        if mood > 0.98:  # and nobody's tenant sees nothing
            async with db.transaction(Role.APP) as conn:
                wrong += await conn.fetchval("SELECT count(*) FROM projects") != 0
        tally.attempts["pool turn"] += 1

    for _ in range(turns // 50):
        await asyncio.gather(*(one() for _ in range(50)))
    await db.close()
    if wrong:
        tally.leak(f"{wrong} turns of the pool saw another tenant's rows")


# ---- controls ------------------------------------------------------------------------------------


async def _control_sql(world: World) -> int:
    await world.owner.execute("CREATE POLICY leak ON memories FOR SELECT TO helix_app USING (true)")
    tally = Tally()
    await _try_sql(world, 1_500, tally, label="control")
    await world.owner.execute("DROP POLICY leak ON memories")
    return len(tally.leaks)


async def _control_http(world: World) -> int:
    """Let a conversation of B's belong to A as well: the detector must see it come back."""
    user = world.tenants.users[A]
    await world.owner.execute(
        "INSERT INTO conversations (user_id, title) VALUES ($1, $2)", user, CANARY
    )
    tally = Tally()
    async with aiohttp.ClientSession() as session:
        one = Attempt("GET", "/api/conversations", "control")
        _, told = await _send(session, world, one)
        if _foreign(world, one, told):
            tally.leak("seen")
    return len(tally.leaks)


# ---- all of it -----------------------------------------------------------------------------------


async def _timed(what: str, work: Awaitable[Any]) -> None:
    began = time.monotonic()
    await work
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)


async def run(attempts: int, pool_turns: int, seconds: float) -> int:
    """Run everything and print it; return the exit status."""
    print(facts(), flush=True)
    tally, faults = Tally(), []
    with tempfile.TemporaryDirectory(prefix="helix-tenancy-") as directory:
        async with _world(Path(directory) / "home", random.Random(5)) as world:
            owner = world.owner
            await owner.execute(f"CREATE ROLE {_LOGIN} LOGIN NOINHERIT")
            await owner.execute(f"GRANT helix_app TO {_LOGIN}")
            before = await _standing(world)
            began = time.monotonic()
            world.until_s = began + seconds * 0.5
            granted = [_try_sql(world, attempts * 36 // 300, tally, label="granted") for _ in "abc"]
            await _timed(
                "HTTP, and SQL as granted",
                asyncio.gather(_try_http(world, attempts // 4, tally), *granted),
            )
            tables = ", ".join(world.tables)
            await owner.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO helix_app")
            world.until_s = began + seconds * 0.9
            widened = [
                _try_sql(world, attempts * 36 // 300, tally, label="all granted") for _ in "abc"
            ]
            await _timed("SQL, all granted", asyncio.gather(*widened))
            world.until_s = began + seconds
            rest = (
                attempts * 4 // 100
                if seconds < float("inf")
                else attempts - sum(tally.attempts.values())
            )
            await _timed("SQL, committed", _commit_writes(world, rest, tally))
            world.until_s = float("inf")
            after = await _standing(world)
            changed = sorted(table for table, digest in before.items() if after[table] != digest)
            if changed:
                faults.append(f"rows of B's changed in {', '.join(changed)}")
            made = sum(tally.attempts.values())
            await _timed("pool", _share_pool(world, pool_turns, tally))
            controls = (await _control_sql(world), await _control_http(world))
    if not all(controls):
        faults.append(f"a planted leak was not found: {controls}")
    for kind, count in sorted(tally.attempts.items()):
        mean_ms = tally.seconds[kind] * 1_000 / count
        took = f" {mean_ms:>7.1f} ms each" if mean_ms else ""
        print(f"  {kind:<32} {count:>8,} attempts {tally.refused[kind]:>8,} refused{took}")
    faults += tally.leaks[:20]
    for fault in faults:
        print(f"FAULT: {fault}")
    print(
        f"{made:,} attempts and {tally.attempts['pool turn']:,} turns of the pool: "
        f"{len(tally.leaks)} leaks, {len(changed)} tables with a changed row; planted leaks found: "
        f"{'yes' if all(controls) else 'NO'}"
    )
    return bool(faults)


def main() -> int:
    """Run the rig; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--short", action="store_true", help="3,000 attempts, 1,000 turns")
    parser.add_argument("--attempts", type=int, default=100_000)
    parser.add_argument("--pool", type=int, default=20_000, help="turns over the shared pool")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop earlier")
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # what Helix says of a thousand refusals
    attempts, turns = (3_000, 1_000) if given.short else (given.attempts, given.pool)
    return asyncio.run(run(attempts, turns, given.seconds))


if __name__ == "__main__":
    sys.exit(main())
