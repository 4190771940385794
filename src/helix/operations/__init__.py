"""Operations: the database's schema, and keeping it right."""

from helix.operations.housekeeping import housekeep
from helix.operations.migrate import require_known_schema, upgrade
from helix.operations.postgres import EmbeddedPostgres, embedded_postgres, running_postgres
from helix.operations.postgres_checks import check_external

__all__ = [
    "EmbeddedPostgres",
    "check_external",
    "embedded_postgres",
    "housekeep",
    "require_known_schema",
    "running_postgres",
    "upgrade",
]
