"""Secrets are found by the catalogue, rotated while they are read, bound to their row (K1-K3)."""

import asyncio
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from helix import providers
from helix.core.config import Settings, load_settings
from helix.core.crypto import Keyring, SecretUnreadable, id_of_key, new_key
from helix.core.db import Connection, Database, connect
from helix.core.errors import Misuse
from helix.core.instance import HomePaths, load_keyring, read_keys, write_keys
from helix.operations.secrets.cli import PLACES
from helix.operations.secrets.errors import KeyStillNeeded, SecretsBusy, SecretsUnclear
from helix.operations.secrets.rotate import (
    add_key,
    alone,
    left_behind,
    remove_keys,
    renew_file,
    rotate,
)
from helix.operations.secrets.rows import (
    count_keys,
    find_unreadable,
    secret_tables,
    undecided_columns,
    write_batch,
)
from helix.operations.secrets.watch import SecretsWatch
from helix.providers.types import Wire
from tests.factories import make_github_credential, make_user


def quietly(_: int) -> None:
    pass


@dataclass
class Vault:
    """A home with a key file, and a database with secrets: of a provider, of a GitHub link."""

    settings: Settings
    path: Path
    keyring: Keyring
    conn: Connection
    provider_id: UUID
    github_id: UUID

    async def api_key(self, keyring: Keyring | None = None) -> str | None:
        registry = await providers.Store(keyring or self.keyring).load(self.conn)
        return registry.providers["acme"].api_key

    def open_github(self, row: Mapping[str, str], column: str) -> str:
        context = f"github_credentials.{column}:{self.github_id}"
        return self.keyring.decrypt(row[column], context=context)


@pytest.fixture
async def vault(owner: Connection, tmp_path: Path) -> Vault:
    settings = load_settings({}, home=tmp_path)
    keyring = load_keyring(settings, create=True)
    provider_id = uuid4()
    await providers.Store(keyring).insert(
        owner,
        provider_id=provider_id,
        name="acme",
        wire=Wire.OPENAI,
        base_url="https://acme.example/v1",
        api_key="sk-of-acme",
        models=["m"],
    )
    github = await make_github_credential(owner)
    sealed = {
        column: keyring.encrypt(
            f"{column} of Ada", context=f"github_credentials.{column}:{github['id']}"
        )
        for column in ("access_token", "refresh_token")
    }
    await owner.execute(
        "UPDATE github_credentials SET access_token = $2, refresh_token = $3, key_id = $4 "
        "WHERE id = $1",
        github["id"], sealed["access_token"], sealed["refresh_token"], keyring.key_id,
    )  # fmt: skip
    return Vault(settings, HomePaths(tmp_path).keys, keyring, owner, provider_id, github["id"])


# ---- found by the catalogue ----------------------------------------------------------------------


async def test_every_column_of_ciphertext_is_found_by_its_comment(conn: Connection) -> None:
    found = {
        (table.name, column) for table in await secret_tables(conn) for column in table.columns
    }
    assert found == {
        ("acp_agents", "credentials"),
        ("archive_files", "sealed_key"),
        ("archive_keys", "sealed_key"),
        ("audit_seals", "seal"),
        ("github_credentials", "access_token"),
        ("github_credentials", "refresh_token"),
        ("mcp_servers", "credentials"),
        ("memory_peers", "credentials"),
        ("provider_configs", "value"),
    }


async def test_no_column_that_may_hold_a_secret_keeps_silent_about_it(conn: Connection) -> None:
    assert await undecided_columns(conn) == []


@pytest.mark.parametrize(
    "column", ["blob bytea", "client_secret text", "oauth_token varchar(99)", "passwords jsonb"]
)
async def test_a_new_column_that_may_hold_a_secret_is_noticed(
    conn: Connection, column: str
) -> None:
    await conn.execute(f"ALTER TABLE projects ADD COLUMN {column}")
    assert await undecided_columns(conn) == [f"projects.{column.split(maxsplit=1)[0]}"]


async def test_a_new_column_with_the_mark_is_rotated_without_further_ado(vault: Vault) -> None:
    await vault.conn.execute(
        "ALTER TABLE lsp_servers ADD COLUMN token text, ADD COLUMN key_id text"
    )
    await vault.conn.execute(
        "COMMENT ON COLUMN lsp_servers.token IS 'Ciphertext, bound to this row.'"
    )
    row_id = uuid4()
    sealed = vault.keyring.encrypt("hush", context=f"lsp_servers.token:{row_id}")
    await vault.conn.execute(
        "INSERT INTO lsp_servers (id, name, language, command, token, key_id) "
        "VALUES ($1, 'x', 'x', 'x', $2, $3)",
        row_id, sealed, vault.keyring.key_id,
    )  # fmt: skip
    add_key(vault.path)
    await rotate(vault.conn, vault.keyring, PLACES, progress=quietly)
    token = await vault.conn.fetchval("SELECT token FROM lsp_servers WHERE id = $1", row_id)
    assert token.split(":")[1] == vault.keyring.key_id
    assert vault.keyring.decrypt(token, context=f"lsp_servers.token:{row_id}") == "hush"


async def test_a_marked_column_that_cannot_be_rotated_is_refused(conn: Connection) -> None:
    await conn.execute("ALTER TABLE projects ADD COLUMN hidden text")
    await conn.execute("COMMENT ON COLUMN projects.hidden IS 'Ciphertext of something.'")
    with pytest.raises(SecretsUnclear, match="projects has columns of ciphertext"):
        await secret_tables(conn)


# ---- rotation ------------------------------------------------------------------------------------


async def test_after_a_rotation_everything_is_on_the_new_key_and_reads_the_same(
    vault: Vault,
) -> None:
    old = vault.keyring.key_id
    new = add_key(vault.path)
    done = await rotate(vault.conn, vault.keyring, PLACES, progress=quietly)
    assert (done.key_id, done.rows, done.unreadable) == (new, 2, ())
    assert {one.key_id for one in await count_keys(vault.conn)} == {new}
    assert old != new
    assert await vault.api_key() == "sk-of-acme"
    row = await vault.conn.fetchrow("SELECT * FROM github_credentials")
    assert vault.open_github(row, "access_token") == "access_token of Ada"
    assert vault.open_github(row, "refresh_token") == "refresh_token of Ada"
    assert row["key_id"] == new


async def test_a_rotation_that_was_cut_off_goes_on_where_it_was(vault: Vault) -> None:
    add_key(vault.path)

    class Killed(BaseException):
        pass

    def die(_: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        await rotate(vault.conn, vault.keyring, PLACES, progress=die)
    assert await left_behind(vault.conn, vault.keyring) == 1
    done = await rotate(vault.conn, vault.keyring, PLACES, progress=quietly)
    assert done.rows == 1
    assert await left_behind(vault.conn, vault.keyring) == 0


async def test_what_changes_under_the_rotation_is_not_overwritten(vault: Vault) -> None:
    table = next(t for t in await secret_tables(vault.conn) if t.name == "provider_configs")
    read = await vault.conn.fetch("SELECT id, value FROM provider_configs")
    store = providers.Store(vault.keyring)
    await store.set_key(vault.conn, name="acme", api_key="sk-changed")
    written = await write_batch(
        vault.conn, table, key_id="x", old=read, new=[{"value": "hx1:000000000000:stale"}]
    )
    assert written == 0
    assert await vault.api_key() == "sk-changed"


async def test_values_that_do_not_open_are_named_and_left_alone(vault: Vault) -> None:
    foreign = Keyring([new_key()]).encrypt("x", context="elsewhere")
    await vault.conn.execute("UPDATE provider_configs SET value = $1", foreign)
    add_key(vault.path)
    done = await rotate(vault.conn, vault.keyring, PLACES, progress=quietly)
    assert [(bad.table, bad.column) for bad in done.unreadable] == [("provider_configs", "value")]
    assert done.rows == 1
    assert await vault.conn.fetchval("SELECT value FROM provider_configs") == foreign


async def test_two_rotations_do_not_run_at_once(vault: Vault, database_url: str) -> None:
    other = await connect(database_url)
    async with alone(vault.conn):
        with pytest.raises(SecretsBusy):
            async with alone(other):
                pass
    async with alone(other):
        pass
    await other.close()


async def test_a_running_process_takes_a_new_key_over_without_a_restart(vault: Vault) -> None:
    elsewhere = load_keyring(vault.settings)
    before = elsewhere.encrypt("x", context="c")
    new = add_key(vault.path)
    assert elsewhere.encrypt("x", context="c").split(":")[1] == new
    assert elsewhere.decrypt(before, context="c") == "x"
    fresh = load_keyring(vault.settings).encrypt("y", context="c")
    assert elsewhere.decrypt(fresh, context="c") == "y"
    assert [key_id for key_id, _ in elsewhere.derived("logins")] == list(elsewhere.key_ids)


async def test_a_key_file_that_becomes_unreadable_leaves_the_keys_as_they_were(
    vault: Vault,
) -> None:
    key_id = vault.keyring.key_id
    vault.path.write_text("no key\n", encoding="utf-8")
    assert vault.keyring.key_id == key_id
    vault.path.unlink()
    assert vault.keyring.key_id == key_id


def test_the_key_file_is_replaced_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    write_keys(path, [first := new_key()])
    inode = path.stat().st_ino
    added = add_key(path)
    assert [id_of_key(key) for key in read_keys(path)] == [added, id_of_key(first)]
    assert path.stat().st_ino != inode
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["keys"]  # noqa: PTH208 - names, of everything


def test_the_file_of_the_first_api_key_is_made_anew_too(tmp_path: Path) -> None:
    settings = load_settings({}, home=tmp_path)
    keyring, path = load_keyring(settings, create=True), HomePaths(tmp_path)
    path.bootstrap_key.write_text(keyring.encrypt("hx_live_x", context="bootstrap.key"))
    new = add_key(path.keys)
    assert renew_file(path.bootstrap_key, keyring)
    assert path.bootstrap_key.read_text().split(":")[1] == new
    assert not renew_file(path.bootstrap_key, keyring)


# ---- retiring ------------------------------------------------------------------------------------


async def test_a_key_that_a_row_needs_is_not_retired(vault: Vault) -> None:
    old = vault.keyring.key_id
    add_key(vault.path)
    with pytest.raises(KeyStillNeeded, match=r"1 rows of provider_configs\.value"):
        await remove_keys(vault.conn, vault.path, key_ids={old})
    await rotate(vault.conn, vault.keyring, PLACES, progress=quietly)
    assert await remove_keys(vault.conn, vault.path, key_ids={old}) == [old]
    assert vault.keyring.key_ids == (vault.keyring.key_id,)
    assert await vault.api_key() == "sk-of-acme"


async def test_a_value_on_its_way_keeps_its_key(vault: Vault, database_url: str) -> None:
    old = vault.keyring.key_id
    late = vault.keyring.encrypt("late", context="memory_peers.credentials:x")
    add_key(vault.path)
    await rotate(vault.conn, vault.keyring, PLACES, progress=quietly)
    writer = await connect(database_url)
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute(
        "INSERT INTO memory_peers (name, url, credentials, key_id) "
        "VALUES ('n', 'http://n', $1, $2)",
        late, old,
    )  # fmt: skip
    retiring = asyncio.create_task(remove_keys(vault.conn, vault.path, key_ids={old}))
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareLock'"
    while not await writer.fetchval(waiting):
        assert not retiring.done()
    await transaction.commit()
    with pytest.raises(KeyStillNeeded, match="memory_peers"):
        await retiring
    assert old in vault.keyring.key_ids
    await writer.close()


# ---- bound to the row (K2) -----------------------------------------------------------------------


async def test_a_value_opens_in_no_other_row_tenant_or_column(vault: Vault) -> None:
    mine = await vault.conn.fetchrow("SELECT * FROM github_credentials")
    other = await make_github_credential(vault.conn, user_id=(await make_user(vault.conn))["id"])
    for table, column, row_id in (
        ("github_credentials", "access_token", other["id"]),  # another row, of another tenant
        ("github_credentials", "refresh_token", mine["id"]),  # another column
        ("provider_configs", "value", mine["id"]),  # another table
    ):
        with pytest.raises(SecretUnreadable):
            vault.keyring.decrypt(mine["access_token"], context=f"{table}.{column}:{row_id}")


async def test_swapped_values_are_named_by_the_check(vault: Vault) -> None:
    await vault.conn.execute(
        "UPDATE github_credentials SET access_token = refresh_token, refresh_token = access_token"
    )
    bad = await find_unreadable(vault.conn, vault.keyring, PLACES)
    assert {(b.column, b.row_id) for b in bad} == {
        ("access_token", vault.github_id),
        ("refresh_token", vault.github_id),
    }


async def test_a_key_of_a_provider_does_not_open_for_another_host(vault: Vault) -> None:
    await vault.conn.execute("UPDATE llm_providers SET base_url = 'https://evil.example/v1'")
    bad = await find_unreadable(vault.conn, vault.keyring, PLACES)
    assert [b.table for b in bad] == ["provider_configs"]
    assert await vault.api_key() is None


# ---- the wrong key (K3) --------------------------------------------------------------------------


async def test_with_the_wrong_key_nothing_opens_and_health_says_so_until_it_is_stored_again(
    vault: Vault, db: Database
) -> None:
    lost = vault.keyring.key_id
    wrong = Keyring([new_key()])
    watch = SecretsWatch(db, wrong, every_s=60)
    await watch.start()
    said = watch.problems()
    assert [line.partition(":")[0] for line in said] == [
        "github_credentials.access_token",
        "github_credentials.refresh_token",
        "provider_configs.value",
    ]
    assert all(f"1 values were encrypted with key {lost}" in line for line in said)
    assert "helix providers key" in said[2]
    assert await vault.api_key(wrong) is None
    await providers.Store(wrong).set_key(vault.conn, name="acme", api_key="sk-again")
    await watch.look()
    await watch.stop()
    assert [line.partition(":")[0] for line in watch.problems()] == [
        "github_credentials.access_token",
        "github_credentials.refresh_token",
    ]
    assert await vault.api_key(wrong) == "sk-again"


def test_a_ring_without_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    (tmp_path / "keys").chmod(0o600)
    with pytest.raises(Misuse, match="at least one"):
        load_keyring(load_settings({}, home=tmp_path))
