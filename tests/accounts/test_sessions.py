"""Session tokens: only ours, only whole, only in time (A6)."""

import base64
import json
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
