"""Logs: constant event names plus fields, one JSON object a line on stderr.

Fields are ids, numbers and names; never prompts, answers or keys. As a second wall every line is
searched for the shapes of secrets, which are cut out.
"""

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

__all__ = ["Log", "configure", "get_log", "redact"]

_SECRETS = (
    re.compile(r"\bhx_[a-z]+_[A-Za-z0-9_-]{8,}"),
    re.compile(r"\bhx1:[0-9a-f]{12}:[A-Za-z0-9_=-]+"),
    re.compile(r"\b(?:sk|pk|rk|ghp|gho|ghu|ghs|xox[abp]|AIza)[-_][A-Za-z0-9_-]{8,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
    re.compile(r"(?<=://)([^/\s:@]*):[^@\s/]+(?=@)"),
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}"),
)


def redact(text: str) -> str:
    """Return `text` with anything shaped like a key, token or password as `[secret]`."""
    for pattern in _SECRETS:
        text = pattern.sub("[secret]", text)
    return text


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return redact(msgspec.json.encode(line, enc_hook=str).decode())


class Log:
    """Writes events of one part of the program: `log.info("task_claimed", task_id=…)`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: object) -> None:
        """Log what helps while looking for a fault."""
        self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, **fields: object) -> None:
        """Log what an operator reads to follow the work."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: object) -> None:
        """Log trouble that Helix deals with by itself."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, *, exc: BaseException | None = None, **fields: object) -> None:
        """Log what someone has to look at; with `exc` its traceback follows."""
        self._logger.error(event, exc_info=exc, extra={"fields": fields})


def get_log(name: str) -> Log:
    """Return the log of the module `name`."""
    return Log(logging.getLogger(name))


def configure(level: str) -> None:
    """Send every log of this process, the libraries' too, to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
