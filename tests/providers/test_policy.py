"""Names, routes, addresses, waits: pure decisions of providers."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.core.errors import Misuse
from helix.providers.errors import ModelNotFound, ProviderUnusable
from helix.providers.policy import (
    check_base_url,
    check_provider_name,
    estimate_tokens,
    registry_of,
    retry_after_s,
)
from helix.providers.types import Provider, Wire

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def provider(name: str, *models: str, **fields: object) -> Provider:
    given: dict[str, object] = {
        "id": uuid4(),
        "name": name,
        "wire": Wire.OPENAI,
        "base_url": "http://x/v1",
        "priority": 5,
        "default_model": None,
        "models": frozenset(models),
        **fields,
    }
    return Provider(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "where", "model"),
    [
        ("b/gpt-4", "b", "gpt-4"),
        ("b/unlisted", "b", "unlisted"),
        ("b/org/model", "b", "org/model"),
        ("gpt-4", "first", "gpt-4"),  # priority before name
        ("tiny", "a", "tiny"),  # name where priorities are equal
        ("org/model", "a", "org/model"),
        ("a", "a", "tiny"),  # the default model
    ],
)
def test_name_of_a_model_leads_to_its_provider(name: str, where: str, model: str) -> None:
    registry = registry_of(
        [
            provider("b", "gpt-4", "tiny"),
            provider("a", "gpt-4", "tiny", "org/model", default_model="tiny"),
            provider("first", "gpt-4", priority=1),
        ]
    )
    route = registry.route(name)
    assert (route.provider.name, route.model) == (where, model)


@pytest.mark.parametrize("name", ["", "/", "a/", "/tiny", "b", "nothing", "nobody/tiny"])
def test_other_names_lead_nowhere(name: str) -> None:
    with pytest.raises(ModelNotFound):
        registry_of([provider("a", "tiny"), provider("b")]).route(name)


def test_listed_model_cannot_take_the_name_of_another_provider() -> None:
    registry = registry_of([provider("bad", "good/gpt", priority=0), provider("good", "gpt")])
    assert registry.route("good/gpt").provider.name == "good"


def test_provider_that_cannot_be_used_says_why() -> None:
    registry = registry_of([provider("a", "m", problem="its key is unreadable")])
    with pytest.raises(ProviderUnusable, match="unreadable"):
        registry.route("a/m")


@given(
    names=st.lists(st.from_regex(r"[a-z]{1,3}", fullmatch=True), unique=True, max_size=5),
    models=st.lists(st.from_regex(r"[a-z]{1,2}", fullmatch=True), max_size=5),
)
def test_every_listed_model_can_be_called_by_both_its_names(
    names: list[str], models: list[str]
) -> None:
    registry = registry_of([provider(name, *models) for name in names])
    for name, model in registry.names():
        assert registry.route(f"{name}/{model}").provider.name == name
        if model not in names:
            assert registry.route(model).provider.name == min(names)


@pytest.mark.parametrize("url", ["https://api.example.com/v1", "http://127.0.0.1:11434/v1/"])
def test_base_url_loses_only_its_last_slash(url: str) -> None:
    assert check_base_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com/v1",
        "ftp://x/v1",
        "file:///etc/passwd",
        "https://",
        "https://user:pw@x/v1",
        "https://user@x/v1",
        "https://x/v1?key=1",
        "https://x/v1#a",
        "https://x:99999/v1",
        "https://[::1/v1",
    ],
)
def test_base_url_that_cannot_be_called_is_refused(url: str) -> None:
    with pytest.raises(Misuse):
        check_base_url(url)


@pytest.mark.parametrize("name", ["", "A", "a/b", "-a", "a b", "x" * 64, "ä", "a\n"])
def test_name_that_cannot_stand_before_a_slash_is_refused(name: str) -> None:
    with pytest.raises(Misuse):
        check_provider_name(name)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-5", 0.0),
        ("1000000000", 3_600.0),
        ("1e999", None),
        ("nan", None),
        ("soon", None),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("Wed, 99 Nov 9999 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_read_within_bounds(header: str | None, wait_s: float | None) -> None:
    assert retry_after_s(header, now=NOW) == wait_s


@given(st.text())
def test_retry_after_of_any_text_is_a_bounded_wait_or_none(header: str) -> None:
    wait_s = retry_after_s(header, now=NOW)
    assert wait_s is None or 0 <= wait_s <= 3_600


@given(st.text())
def test_estimate_is_a_token_for_four_bytes_rounded_up(text: str) -> None:
    size = len(text.encode("utf-8", "replace"))
    assert 4 * estimate_tokens(text) - 4 < size <= 4 * estimate_tokens(text)
