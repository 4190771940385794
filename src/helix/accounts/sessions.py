"""Session tokens: JWTs signed with HS256 under keys derived from Helix's encryption keys.

What a token must look like is fixed: three header fields, one algorithm, a key we know, our
issuer and audience. A token is also good only while its row in user_sessions is (K4, A6).
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

import jwt

from helix.accounts.errors import SessionInvalid
from helix.accounts.types import Session
from helix.core.errors import Misuse

__all__ = ["SessionTokens", "SigningKeys", "token_hash"]

SigningKeys = Sequence[tuple[str, bytes]] | Callable[[], Sequence[tuple[str, bytes]]]
"""Pairs of a key id and 32 secret bytes, newest first; or what returns those of the moment."""

TOKEN_CHARS_MAX = 1_024
SECRET_BYTES_MIN = 32
_ALGORITHM = "HS256"
_ISSUER = "helix"
_AUDIENCE = "helix-api"
_HEADER = frozenset({"alg", "kid", "typ"})
_CLAIMS = ("aud", "exp", "iat", "iss", "sid", "sub")


def token_hash(token: str) -> bytes:
    """Return what is stored of a session token: SHA-256, 32 bytes."""
    return hashlib.sha256(token.encode()).digest()


class SessionTokens:
    """Signs with the first key and accepts any of them, so that keys can be rotated.

    Each of `keys` is derived from an encryption key for this purpose alone.
    """

    def __init__(self, keys: SigningKeys) -> None:
        self._keys = keys
        self._current()

    def _current(self) -> Sequence[tuple[str, bytes]]:
        keys = self._keys() if callable(self._keys) else self._keys
        if not keys or any(len(secret) < SECRET_BYTES_MIN for _, secret in keys):
            raise Misuse("session tokens need at least one signing key of 32 bytes")
        return keys

    def sign(self, session: Session, *, now: datetime) -> str:
        """Return the token of a session."""
        claims = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": str(session.user_id),
            "sid": str(session.id),
            "iat": now,
            "exp": session.expires_at,
        }
        key_id, secret = self._current()[0]
        return jwt.encode(claims, secret, algorithm=_ALGORITHM, headers={"kid": key_id})

    def read(self, token: str) -> tuple[UUID, UUID]:
        """Return the ids of session and user that a token names; raises SessionInvalid.

        Its signature, issuer, audience and times are right then; its row is still to be asked.
        """
        if len(token) > TOKEN_CHARS_MAX or not token.isascii():
            raise SessionInvalid
        try:
            header = jwt.get_unverified_header(token)
            secret = dict(self._current()).get(str(header.get("kid", "")))
            if secret is None or header.keys() != _HEADER or header["alg"] != _ALGORITHM:
                raise SessionInvalid
            claims = jwt.decode(
                token,
                secret,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                audience=_AUDIENCE,
                options={"require": list(_CLAIMS)},
            )
            return UUID(claims["sid"]), UUID(claims["sub"])
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as exc:
            raise SessionInvalid from exc
