"""Accounts: users, sessions, API keys, scopes."""

from helix.accounts.command import (
    Home,
    Json,
    say,
    show,
    show_json,
    show_table,
    with_operator,
)
from helix.accounts.domain import Accounts, bootstrap_admin, build, issue_admin_key
from helix.accounts.errors import ScopeMissing
from helix.accounts.keys import KeyGate
from helix.accounts.routes import router
from helix.accounts.store import Store
from helix.accounts.types import Principal, Scope, UserRole

__all__ = [
    "Accounts",
    "Home",
    "Json",
    "KeyGate",
    "Principal",
    "Scope",
    "ScopeMissing",
    "Store",
    "UserRole",
    "bootstrap_admin",
    "build",
    "issue_admin_key",
    "router",
    "say",
    "show",
    "show_json",
    "show_table",
    "with_operator",
]
