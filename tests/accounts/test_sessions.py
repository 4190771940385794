"""Session tokens: only ours, only whole, only in time (A6)."""

import base64
import hmac
import itertools
import json
import string
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix.accounts.errors import SessionInvalid
from helix.accounts.sessions import SessionTokens
from helix.accounts.types import Session
from helix.core.errors import Misuse

KEYS = [("new", b"n" * 32), ("old", b"o" * 32)]
NOW = datetime.now(UTC)
SESSION = Session(uuid4(), uuid4(), NOW + timedelta(hours=1))
TOKENS = SessionTokens(KEYS)
TOKEN = TOKENS.sign(SESSION, now=NOW)
CLAIMS = {
    "iss": "helix",
    "aud": "helix-api",
    "sub": str(SESSION.user_id),
    "sid": str(SESSION.id),
    "iat": NOW,
    "exp": NOW + timedelta(hours=1),
}


def forged(secret: bytes = KEYS[0][1], header: dict[str, Any] | None = None, **claims: Any) -> str:
    given = {key: value for key, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(given, secret, algorithm="HS256", headers={"kid": "new", **(header or {})})


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_token_names_its_session_and_user() -> None:
    assert TOKENS.read(TOKEN) == (SESSION.id, SESSION.user_id)
    assert forged()  # the forge makes good tokens when it is asked to
    assert TOKENS.read(forged()) == (SESSION.id, SESSION.user_id)


def test_token_of_the_key_before_is_read_until_that_key_goes() -> None:
    before = SessionTokens(KEYS[1:]).sign(SESSION, now=NOW)
    assert TOKENS.read(before) == (SESSION.id, SESSION.user_id)
    with pytest.raises(SessionInvalid):
        SessionTokens(KEYS[:1]).read(before)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        TOKEN[:-1],
        TOKEN + "x" * 1_000_000,
        TOKEN[:20] + "A" + TOKEN[21:],
        f"{part({'alg': 'none', 'typ': 'JWT', 'kid': 'new'})}.{TOKEN.split('.')[1]}.",
        f"{part({'alg': 'nOnE', 'typ': 'JWT', 'kid': 'new'})}.{TOKEN.split('.')[1]}.",
        f"{part({'alg': 'RS256', 'typ': 'JWT', 'kid': 'new'})}.{TOKEN.split('.')[1]}.AAAA",
        f"{part([])}.{part({})}.AAAA",
        forged(b"x" * 32),
        forged(header={"kid": "../../dev/null"}),
        forged(header={"kid": "' OR 1=1 --"}),
        forged(header={"jku": "http://127.0.0.1/keys"}),
        forged(header={"jwk": {"kty": "oct", "k": "AAAA"}}),
        forged(header={"crit": ["exp"]}),
        forged(exp=NOW - timedelta(seconds=1)),
        forged(exp=None),
        forged(nbf=NOW + timedelta(hours=1)),
        forged(iat=NOW + timedelta(hours=1)),
        forged(aud="another"),
        forged(aud=None),
        forged(iss="another"),
        forged(iss=None),
        forged(sid=None),
        forged(sub=None),
        forged(sid="not a uuid"),
        forged(sid=["x"]),
        jwt.encode(CLAIMS, b"n" * 64, algorithm="HS512", headers={"kid": "new"}),
        jwt.encode(CLAIMS, KEYS[0][1], algorithm="HS256"),
    ],
)
def test_any_other_token_is_refused(token: str) -> None:
    with pytest.raises(SessionInvalid):
        TOKENS.read(token)


@settings(max_examples=500)
@given(place=st.integers(0, len(TOKEN) - 2), letter=st.characters())
def test_changed_token_is_refused(place: int, letter: str) -> None:
    changed = TOKEN[:place] + letter + TOKEN[place + 1 :]
    if changed != TOKEN:
        with pytest.raises(SessionInvalid):
            TOKENS.read(changed)


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(SessionInvalid):
        TOKENS.read(text)


def test_short_signing_key_is_refused() -> None:
    with pytest.raises(Misuse):
        SessionTokens([("k", b"short")])
    with pytest.raises(Misuse):
        SessionTokens([])


def mutants() -> Iterator[tuple[str, str]]:
    """Yield forged tokens with the trick each plays; the same ones every time."""
    head, body, signature = TOKEN.split(".")
    good = {"alg": "HS256", "kid": "new", "typ": "JWT"}
    for place, letter in itertools.product(range(len(TOKEN)), string.ascii_uppercase + "az09.-_ ="):
        yield "letter", TOKEN[:place] + letter + TOKEN[place + 1 :]
    for place in range(len(TOKEN)):
        yield "cut", TOKEN[:place]
        yield "cut", TOKEN[place + 1 :]
        yield "doubled", TOKEN[:place] + TOKEN[place] + TOKEN[place:]
    nones = {"".join(case) for case in itertools.product(*zip("none", "NONE", strict=True))}
    names = [
        *sorted(nones),
        "",
        "null",
        "HS1",
        "hs256",
        "HS384",
        "HS512",
        "RS256",
        "ES256",
        "EdDSA",
    ]
    for alg, kid, tail in itertools.product(
        [*names, None, 0, [], {}], ["new", "old", "", "x", None], ["", signature, "AAAA", "=="]
    ):
        yield "alg", f"{part({**good, 'alg': alg, 'kid': kid})}.{body}.{tail}"
    for name in ("none", "RS256", "HS512"):
        for secret in (b"", b"n" * 32, b"o" * 32, b"new", signature.encode()):
            digest = hmac.new(secret, f"{part({**good, 'alg': name})}.{body}".encode(), "sha256")
            tail = base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
            yield "confusion", f"{part({**good, 'alg': name})}.{body}.{tail}"
    kids = ["../../dev/null", "/dev/null", "' OR 1=1 --", "new'--", "new\0", "NEW", " new", "new ",
            "0", "None", "file:///dev/null", "|id", "old", "n" * 1_000]  # fmt: skip
    extras = [{"jku": "http://127.0.0.1/k"}, {"x5u": "http://127.0.0.1/k"}, {"crit": ["exp"]},
              {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": False}, {"cty": "JWT"},
              {"jwk": {"kty": "oct", "k": "bm5u"}}, {"x5c": ["AAAA"]}, {"zip": "DEF"}]  # fmt: skip
    for secret in (b"n" * 32, b"x" * 32, b"\0" * 32, b"", b"new", b"helix"):
        for header in [*({"kid": kid} for kid in kids), *extras]:
            yield "header", signed({**good, **header}, CLAIMS_SENT, secret)
        if secret != b"n" * 32:
            yield "secret", signed(good, CLAIMS_SENT, secret)
    now = int(NOW.timestamp())
    wrong: dict[str, list[Any]] = {
        "exp": [now - 1, 0, -1, "soon", None, True, [], {}, 1e400, -1e400],
        "nbf": [now + 3_600, 2**40, "later", [], {}],
        "iat": [now + 3_600, 2**40, "later", [], {}],
        "aud": ["", "helix", "HELIX-API", "helix-api ", [], [""], {}, None, 0],
        "iss": ["", "HELIX", "helix ", "helix-api", [], {}, None, 0],
        "sub": ["", "x", None, [], {}, 0, "0" * 31],
        "sid": ["", "x", None, [], {}, 0, "0" * 31, "' OR 1=1 --"],
    }
    for name, values in wrong.items():
        if name in CLAIMS_SENT:
            left = {key: value for key, value in CLAIMS_SENT.items() if key != name}
            yield "claim", signed(good, left, b"n" * 32)
        for value in values:
            yield "claim", signed(good, {**CLAIMS_SENT, name: value}, b"n" * 32)
    for first, second in itertools.permutations([head, body, signature, "", "e30"], 2):
        yield "parts", f"{first}.{second}"
        yield "parts", f"{first}.{second}.{signature}.{signature}"
    for prefix in (TOKEN[:20], TOKEN[:100]):
        yield "prefix", prefix + "A" * (len(TOKEN) - len(prefix))
    yield "long", TOKEN + "." * 1_000_000


CLAIMS_SENT = {
    **{key: value for key, value in CLAIMS.items() if key not in {"iat", "exp"}},
    "iat": int(NOW.timestamp()),
    "exp": int(NOW.timestamp()) + 3_600,
}


def signed(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    start = f"{part(header)}.{part(claims)}"
    digest = hmac.new(secret, start.encode(), "sha256").digest()
    return f"{start}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def test_no_mutant_of_a_token_is_accepted() -> None:
    """The forge works: it makes a good token when it is asked to; of the rest none is taken."""
    good = {"alg": "HS256", "kid": "new", "typ": "JWT"}
    assert TOKENS.read(signed(good, CLAIMS_SENT, b"n" * 32)) == (SESSION.id, SESSION.user_id)
    tried: Counter[str] = Counter()
    accepted: list[tuple[str, str]] = []
    for trick, token in mutants():
        if token == TOKEN:
            continue
        tried[trick] += 1
        try:
            TOKENS.read(token)
        except SessionInvalid:
            continue
        accepted.append((trick, token[:200]))
    assert accepted == []
    assert tried.total() >= 10_000
    assert len(tried) >= 10
