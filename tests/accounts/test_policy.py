"""The shape of keys, the rules of passwords, what a child key may do; the count of requests."""

import os
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.accounts.errors import BadPassword, InvalidKey, KeyExceedsParent
from helix.accounts.policy import (
    KEY_MARK,
    check_child,
    check_password,
    key_from_random,
    key_hash,
    key_prefix,
    require_key_shape,
    scopes_of_role,
)
from helix.accounts.types import Principal, Scope, UserRole
from helix.core.log import redact

NOW = datetime(2026, 11, 22, tzinfo=UTC)
noises = st.binary(min_size=24, max_size=24)


@given(noises)
def test_key_has_its_mark_a_fixed_length_and_a_right_checksum(noise: bytes) -> None:
    key = key_from_random(noise)
    assert key.startswith("hx_live_")
    assert len(key) == 48
    require_key_shape(key)


@given(noise=noises, place=st.integers(8, 47), letter=st.characters(codec="utf-8"))
def test_one_wrong_letter_is_found_without_the_database(
    noise: bytes, place: int, letter: str
) -> None:
    key = key_from_random(noise)
    mistyped = key[:place] + letter + key[place + 1 :]
    if mistyped != key:
        with pytest.raises(InvalidKey):
            require_key_shape(mistyped)


@given(st.text())
def test_any_text_is_a_key_or_refused(text: str) -> None:
    with pytest.raises(InvalidKey):
        require_key_shape(text)
    with pytest.raises(InvalidKey):
        require_key_shape(KEY_MARK + text)


@given(st.lists(noises, unique=True, max_size=50))
def test_keys_and_hashes_of_different_noise_differ(noise: list[bytes]) -> None:
    keys = [key_from_random(one) for one in noise]
    assert len({key_hash(key) for key in keys}) == len(set(keys)) == len(noise)
    assert all(len(key_hash(key)) == 32 for key in keys)


def test_shown_part_is_short_and_the_key_never_reaches_a_log() -> None:
    key = key_from_random(os.urandom(24))
    assert key_prefix(key) == key[:14]
    assert key not in redact(f"refused {key} of somebody")


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("short", "at least 10"),
        ("long enough\0but", "NUL"),
        ("x" * 73, "at most 72 bytes"),
        ("é" * 37, "at most 72 bytes"),
        ("\ud800 surrogate", "valid Unicode"),
    ],
)
def test_password_that_bcrypt_would_cut_or_refuse_is_refused_clearly(
    password: str, reason: str
) -> None:
    with pytest.raises(BadPassword, match=reason):
        check_password(password)


@pytest.mark.parametrize("password", ["x" * 10, "x" * 72, "é" * 36, "ten chars "])
def test_password_within_the_rules_is_taken(password: str) -> None:
    check_password(password)


def parent_key(**fields: object) -> Principal:
    given: dict[str, object] = {
        "user_id": uuid4(),
        "role": UserRole.USER,
        "scopes": frozenset({Scope.COMPLETIONS, Scope.MODELS}),
        "api_key_id": uuid4(),
        "rate_limit": 100,
        "expires_at": NOW + timedelta(days=1),
        **fields,
    }
    return Principal(**given)  # type: ignore[arg-type]


@given(
    parent_scopes=st.frozensets(st.sampled_from(Scope)),
    child_scopes=st.frozensets(st.sampled_from(Scope)),
    parent_limit=st.integers(0, 1_000),
    child_limit=st.integers(0, 1_000),
    parent_days=st.none() | st.integers(1, 9),
    child_days=st.none() | st.integers(1, 9),
    role=st.sampled_from(UserRole),
)
def test_child_never_exceeds_its_parent(  # noqa: PLR0917 - Hypothesis gives them by name
    parent_scopes: frozenset[Scope],
    child_scopes: frozenset[Scope],
    parent_limit: int,
    child_limit: int,
    parent_days: int | None,
    child_days: int | None,
    role: UserRole,
) -> None:
    def after(days: int | None) -> datetime | None:
        return None if days is None else NOW + timedelta(days=days)

    parent = parent_key(
        role=role, scopes=parent_scopes, rate_limit=parent_limit, expires_at=after(parent_days)
    )
    allowed = (
        child_scopes <= parent_scopes
        and (role is UserRole.ADMIN or Scope.ADMIN not in child_scopes)
        and child_limit <= parent_limit
        and (parent_days is None or (child_days is not None and child_days <= parent_days))
    )
    try:
        check_child(
            parent, scopes=child_scopes, rate_limit=child_limit, expires_at=after(child_days)
        )
    except KeyExceedsParent:
        assert not allowed
    else:
        assert allowed


def test_login_of_a_user_carries_everything_but_admin() -> None:
    assert scopes_of_role(UserRole.USER) == frozenset(Scope) - {Scope.ADMIN}
    assert scopes_of_role(UserRole.ADMIN) == frozenset(Scope)
