"""Accounts as JSON shows them: what may be seen, and nothing else."""

from helix.accounts.types import ApiKey, User

__all__ = ["shown_key", "shown_user"]


def shown_key(key: ApiKey) -> dict[str, object]:
    """Return a key as JSON shows it."""
    return {
        "id": key.id,
        "user_id": key.user_id,
        "prefix": key.prefix,
        "name": key.name,
        "scopes": sorted(scope.value for scope in key.scopes),
        "rate_limit": key.rate_limit,
        "status": key.status.value,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
        "parent_key_id": key.parent_key_id,
        "tokens_per_minute": key.tokens_per_minute,
        "parallel_max": key.parallel_max,
        "allowed_models": key.allowed_models,
        "cache_max_age_s": key.cache_max_age_s,
    }


def shown_user(user: User) -> dict[str, object]:
    """Return an account as JSON shows it."""
    return {
        "id": user.id,
        "email": user.email,
        "username": user.username,
        "name": user.name,
        "role": user.role.value,
        "status": user.status.value,
        "created_at": user.created_at,
        "last_login": user.last_login,
    }
