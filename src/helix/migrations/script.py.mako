"""${message.rstrip(".")}.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "${up_revision}"
down_revision = ${'"%s"' % down_revision if down_revision else None}
