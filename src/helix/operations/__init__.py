"""Operations: the database's schema, and keeping it right."""

from helix.operations.guard import require_backup
from helix.operations.migrate import require_known_schema, upgrade
from helix.operations.postgres import EmbeddedPostgres, embedded_postgres, running_postgres
from helix.operations.postgres_checks import check_external
from helix.operations.seating import check_seating

__all__ = [
    "EmbeddedPostgres",
    "check_external",
    "check_seating",
    "embedded_postgres",
    "require_backup",
    "require_known_schema",
    "running_postgres",
    "upgrade",
]
