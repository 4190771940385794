"""Who calls: from a request's key or token to what each domain knows of its caller."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from fastapi import Request

from helix import accounts, conversations, tasks
from helix.core.audit import Actor

__all__ = [
    "admin_of",
    "admin_user_of",
    "conversation_caller_of",
    "principal_of",
    "task_caller_of",
    "user_of",
]


def principal_of(
    people: accounts.Accounts, scope: accounts.Scope
) -> Callable[[Request], Awaitable[accounts.Principal]]:
    """Return what authenticates a request and checks that it has a scope.

    It raises Unauthenticated, or ScopeMissing.
    """

    async def identify(request: Request) -> accounts.Principal:
        header = request.headers.get("authorization")
        principal = await people.identify(None if header is None else header.encode("latin-1"))
        if not principal.allows(scope):
            raise accounts.ScopeMissing(scope.value)
        return principal

    return identify


def user_of(
    people: accounts.Accounts, scope: accounts.Scope
) -> Callable[[Request], Awaitable[UUID]]:
    """Return what tells whose data a request is about: the caller's own."""
    known = principal_of(people, scope)

    async def identify(request: Request) -> UUID:
        return (await known(request)).user_id

    return identify


def admin_of(people: accounts.Accounts) -> Callable[[Request], Awaitable[Actor]]:
    """Return what lets administrators pass, by role and by scope, and tells who acts."""
    known = principal_of(people, accounts.Scope.ADMIN)

    async def identify(request: Request) -> Actor:
        principal = await known(request)
        if principal.role is not accounts.UserRole.ADMIN:
            raise accounts.ScopeMissing(accounts.Scope.ADMIN.value)
        origin = None if request.client is None else request.client.host
        return Actor("user", principal.user_id, principal.api_key_id, origin)

    return identify


def admin_user_of(people: accounts.Accounts) -> Callable[[Request], Awaitable[UUID]]:
    """Return what lets administrators pass, by role and by scope, and tells who it is."""
    known = admin_of(people)

    async def identify(request: Request) -> UUID:
        user_id = (await known(request)).user_id
        assert user_id is not None  # noqa: S101 - an administrator is a user
        return user_id

    return identify


def task_caller_of(
    people: accounts.Accounts,
) -> Callable[[Request], Awaitable[tasks.TaskCaller]]:
    """Return who calls the routes of tasks: administrators with the scope see all."""
    known = principal_of(people, accounts.Scope.TASKS)

    async def identify(request: Request) -> tasks.TaskCaller:
        principal = await known(request)
        admin = principal.role is accounts.UserRole.ADMIN
        return tasks.TaskCaller(
            principal.user_id, operator=admin and principal.allows(accounts.Scope.ADMIN)
        )

    return identify


def conversation_caller_of(
    people: accounts.Accounts,
) -> Callable[[Request], Awaitable[conversations.ConversationCaller]]:
    """Return who calls the routes of conversations: administrators with the scope see all."""
    known = principal_of(people, accounts.Scope.CONVERSATIONS)

    async def identify(request: Request) -> conversations.ConversationCaller:
        principal = await known(request)
        admin = principal.role is accounts.UserRole.ADMIN
        return conversations.ConversationCaller(
            principal.user_id, operator=admin and principal.allows(accounts.Scope.ADMIN)
        )

    return identify
