"""Pure decisions of accounts: the shape of keys, rules of passwords, what a child key may do."""

import hashlib
import hmac
import zlib
from datetime import datetime

from helix.accounts.errors import BadPassword, InvalidKey, KeyExceedsParent
from helix.accounts.types import Principal, Scope, UserRole

__all__ = [
    "KEY_MARK",
    "PASSWORD_BYTES_MAX",
    "RANDOM_BYTES",
    "check_child",
    "check_password",
    "key_from_random",
    "key_hash",
    "key_prefix",
    "require_key_shape",
    "scopes_of_role",
]

KEY_MARK = "hx_live_"
"""Every key begins with this, so that scanners and people know one when they see it."""

RANDOM_BYTES = 24
_RANDOM_CHARS = 33
_CHECKSUM_CHARS = 6
_KEY_CHARS = len(KEY_MARK) + _RANDOM_CHARS + 1 + _CHECKSUM_CHARS
_SHOWN_CHARS = len(KEY_MARK) + 6
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

PASSWORD_CHARS_MIN = 10
PASSWORD_BYTES_MAX = 72
"""bcrypt reads 72 bytes: a longer password is refused, never cut."""


def _base62(number: int, width: int) -> str:
    digits = []
    while number:
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits)).rjust(width, "0")


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_CHARS)


def key_from_random(noise: bytes) -> str:
    """Return the key made of 24 random bytes: mark, 33 base-62 characters, CRC-32 in base 62."""
    if len(noise) != RANDOM_BYTES:
        raise ValueError(f"a key is made of {RANDOM_BYTES} bytes, not {len(noise)}")
    body = KEY_MARK + _base62(int.from_bytes(noise, "big"), _RANDOM_CHARS)
    return f"{body}_{_checksum(body)}"


def require_key_shape(key: str) -> None:
    """Raise InvalidKey unless mark, length and checksum are right.

    The checksum is no secret: it finds a mistyped or cut key without asking the database.
    """
    body, _, checksum = key.rpartition("_")
    shaped = len(key) == _KEY_CHARS and key.isascii() and body.startswith(KEY_MARK)
    if not shaped or not hmac.compare_digest(checksum, _checksum(body)):
        raise InvalidKey


def key_hash(key: str) -> bytes:
    """Return what is stored of a key: SHA-256, 32 bytes. Its 190 random bits need no salt."""
    return hashlib.sha256(key.encode()).digest()


def key_prefix(key: str) -> str:
    """Return the part of a key that may be shown; the 27 characters left out keep it safe."""
    return key[:_SHOWN_CHARS]


def check_password(password: str) -> None:
    """Raise BadPassword, which says what to change, for a password that cannot be kept well."""
    if "\0" in password:
        raise BadPassword("a password cannot contain the character NUL")
    if len(password) < PASSWORD_CHARS_MIN:
        raise BadPassword(f"a password needs at least {PASSWORD_CHARS_MIN} characters")
    try:
        size = len(password.encode())
    except UnicodeEncodeError as exc:
        raise BadPassword("a password must be valid Unicode text") from exc
    if size > PASSWORD_BYTES_MAX:
        raise BadPassword(
            f"a password may have at most {PASSWORD_BYTES_MAX} bytes in UTF-8; this has {size}"
        )


def scopes_of_role(role: UserRole) -> frozenset[Scope]:
    """Return all that an account of this role may do, which is what its login carries."""
    everything = frozenset(Scope)
    return everything if role is UserRole.ADMIN else everything - {Scope.ADMIN}


def check_child(
    parent: Principal,
    *,
    scopes: frozenset[Scope],
    rate_limit: int,
    expires_at: datetime | None,
) -> None:
    """Raise KeyExceedsParent if a key of these rights could do what `parent` cannot.

    A login may make keys for all that its role may do; a key only narrower ones, which end no
    later than it does.
    """
    excess = sorted((scopes - parent.scopes) | (scopes - scopes_of_role(parent.role)))
    if excess:
        raise KeyExceedsParent(
            f"a key cannot be given scopes its maker lacks: {', '.join(excess)}", param="scopes"
        )
    if parent.rate_limit is not None and rate_limit > parent.rate_limit:
        raise KeyExceedsParent(
            f"a key cannot be given more than its maker's {parent.rate_limit} requests a minute",
            param="rate_limit",
        )
    if (
        parent.api_key_id is not None
        and parent.expires_at is not None
        and (expires_at is None or expires_at > parent.expires_at)
    ):
        raise KeyExceedsParent(
            "a key cannot outlive the key it is made with; give it an earlier expires_at",
            param="expires_at",
        )
