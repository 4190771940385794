"""Erasure of users: out of every table, and out of every copy that is restored later."""

from helix.operations.erasure.jobs import register_erasures
from helix.operations.erasure.ledger import Erasure, apply, export, file_of, read
from helix.operations.erasure.routes import build_router
from helix.operations.erasure.service import Erased, erase

__all__ = [
    "Erased",
    "Erasure",
    "apply",
    "build_router",
    "erase",
    "export",
    "file_of",
    "read",
    "register_erasures",
]
