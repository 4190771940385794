"""Settings: read once, refused clearly."""

from pathlib import Path

import pytest

from helix.core.config import load_settings
from helix.core.db import Role, redacted_url
from helix.core.errors import Misuse


def test_without_any_variable_the_database_is_embedded() -> None:
    settings = load_settings({})
    assert settings.external_url() is None
    assert settings.port == 8484


def test_an_option_wins_over_the_environment() -> None:
    assert load_settings({"HELIX_PORT": "1"}, port=2).port == 2


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load_settings({"HELIX_PORT": "", "DATABASE_URL": ""}).port == 8484


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"HELIX_PROT": "1"}, "unknown setting HELIX_PROT"),
        ({"HELIX_PORT": "70000"}, "HELIX_PORT"),
        ({"HELIX_LOG_LEVEL": "loud"}, "HELIX_LOG_LEVEL"),
        ({"DB_PORT": "x"}, "DB_PORT"),
        ({"HELIX_SECRET_KEYS_FILE": "/nowhere/keys"}, "HELIX_SECRET_KEYS_FILE: cannot read"),
    ],
)
def test_a_wrong_variable_is_named_in_one_line(environ: dict[str, str], says: str) -> None:
    with pytest.raises(Misuse) as refused:
        load_settings(environ)
    assert says in refused.value.message
    assert "\n" not in refused.value.message


def test_a_secret_can_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-from-file\n")
    settings = load_settings({"OPENAI_API_KEY_FILE": str(file)})
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "sk-from-file"


def test_secrets_do_not_show_in_a_printed_settings() -> None:
    settings = load_settings({"DATABASE_URL": "postgresql://u:hush@h/d", "OPENAI_API_KEY": "hush"})
    assert "hush" not in repr(settings)


def test_a_url_in_sqlalchemys_form_is_understood() -> None:
    settings = load_settings({"DATABASE_URL": "postgresql+asyncpg://u:p@h:1/d"})
    assert settings.external_url() == "postgresql://u:p@h:1/d"


def test_parts_make_a_url_with_the_documented_defaults() -> None:
    settings = load_settings({"DB_HOST": "localhost"})
    assert settings.external_url() == (
        "postgresql://helixagent:helixagent123@localhost:15432/helixagent_db"
    )


def test_the_documented_password_is_refused_outside_loopback() -> None:
    with pytest.raises(Misuse, match="default database password is refused for db"):
        load_settings({"DB_HOST": "db"}).external_url()


@pytest.mark.parametrize("url", ["mysql://h/d", "postgresql", "h:5432"])
def test_a_url_that_is_not_postgresqls_is_refused(url: str) -> None:
    with pytest.raises(Misuse, match="DATABASE_URL must look like"):
        load_settings({"DATABASE_URL": url}).external_url()


def test_the_pool_may_grow_by_its_overflow() -> None:
    settings = load_settings({"DATABASE_POOL_SIZE": "7", "DATABASE_MAX_OVERFLOW": "3"})
    assert settings.pool_limits()[Role.APP].maximum == 10


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p%40ss@h:5/d?x=1", "postgresql://u:***@h:5/d?x=1"),
        ("postgresql://u@/d?host=/run/x&password=p", "postgresql://u@/d?host=/run/x&password=***"),
    ],
)
def test_a_shown_url_has_no_password(url: str, shown: str) -> None:
    assert redacted_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:helixagent123@db.example:5432/x",
        "postgresql://u:postgres@db.example/x",
        "postgresql://u:helixagent123@/x?host=10.0.0.7",
        "postgresql://u:changeme@192.0.2.1/x",
    ],
)
def test_a_default_password_is_refused_off_loopback(url: str) -> None:
    with pytest.raises(Misuse, match="the default database password is refused"):
        load_settings({"DATABASE_URL": url}).external_url()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:helixagent123@localhost/x",
        "postgresql://u:helixagent123@127.0.0.9/x",
        "postgresql://u:helixagent123@[::1]:5432/x",
        "postgresql://u:helixagent123@/x?host=/run/postgresql",
    ],
)
def test_a_default_password_will_do_where_nobody_else_comes(url: str) -> None:
    assert load_settings({"DATABASE_URL": url}).external_url() == url
    with pytest.raises(Misuse, match="default database password"):
        load_settings({"DATABASE_URL": url, "HELIX_HOST": "0.0.0.0"}).external_url()
