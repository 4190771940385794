"""Accounts: users, sessions, API keys, scopes."""

from helix.accounts.cli_users import find_user
from helix.accounts.domain import Accounts, bootstrap_admin, build, issue_admin_key
from helix.accounts.errors import KeyRevoked, RateLimited, ScopeMissing
from helix.accounts.keys import KeyGate, presented
from helix.accounts.routes import router
from helix.accounts.service import change_status
from helix.accounts.store import Store
from helix.accounts.types import Principal, Scope, UserRole, UserStatus
from helix.core.command import (
    Home,
    Json,
    say,
    show,
    show_json,
    show_table,
    with_operator,
)

__all__ = [
    "Accounts",
    "Home",
    "Json",
    "KeyGate",
    "KeyRevoked",
    "Principal",
    "RateLimited",
    "Scope",
    "ScopeMissing",
    "Store",
    "UserRole",
    "UserStatus",
    "bootstrap_admin",
    "build",
    "change_status",
    "find_user",
    "issue_admin_key",
    "presented",
    "router",
    "say",
    "show",
    "show_json",
    "show_table",
    "with_operator",
]
