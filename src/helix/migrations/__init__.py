"""The revisions of the schema: Alembic's graph in versions/, plain SQL in sql/."""
