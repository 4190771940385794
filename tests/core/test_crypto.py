"""Secrets at rest: bound to their row, readable only with their key."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.core.crypto import Keyring, SecretUnreadable, new_key
from helix.core.errors import Misuse


@given(st.text(), st.text())
def test_a_value_comes_back_where_it_was_put(value: str, context: str) -> None:
    keyring = Keyring([new_key()])
    assert keyring.decrypt(keyring.encrypt(value, context=context), context=context) == value


def test_a_value_moved_to_another_row_is_refused() -> None:
    keyring = Keyring([new_key()])
    sealed = keyring.encrypt("sk-secret", context="provider_configs.value:1")
    with pytest.raises(SecretUnreadable, match=r"provider_configs\.value:2 does not open"):
        keyring.decrypt(sealed, context="provider_configs.value:2")


def test_a_changed_byte_is_refused() -> None:
    keyring = Keyring([new_key()])
    version, key_id, body = keyring.encrypt("value", context="c").split(":")
    raw = bytearray(base64.urlsafe_b64decode(body))
    raw[-1] ^= 1
    changed = f"{version}:{key_id}:{base64.urlsafe_b64encode(bytes(raw)).decode()}"
    with pytest.raises(SecretUnreadable):
        keyring.decrypt(changed, context="c")


def test_an_old_key_still_reads_and_a_new_one_writes() -> None:
    old, new = new_key(), new_key()
    sealed = Keyring([old]).encrypt("value", context="c")
    both = Keyring([new, old])
    assert both.decrypt(sealed, context="c") == "value"
    assert both.encrypt("value", context="c").split(":")[1] == Keyring([new]).key_id


def test_a_missing_key_is_named_by_its_id_and_the_place() -> None:
    sealed = Keyring([new_key()]).encrypt("value", context="c")
    with pytest.raises(SecretUnreadable, match="c was encrypted with key"):
        Keyring([new_key()]).decrypt(sealed, context="c")


@pytest.mark.parametrize("sealed", ["", "plain", "hx1:abc", "gAAAA:a:b"])
def test_what_helix_did_not_encrypt_is_refused(sealed: str) -> None:
    with pytest.raises(SecretUnreadable):
        Keyring([new_key()]).decrypt(sealed, context="c")


@pytest.mark.parametrize("keys", [[], ["short"], ["!" * 44]])
def test_a_key_that_is_none_is_refused_without_being_shown(keys: list[str]) -> None:
    with pytest.raises(Misuse) as refused:
        Keyring(keys)
    assert not any(key in refused.value.message for key in keys)
