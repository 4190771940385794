"""What the rigs decide by: each judge refuses what is wrong and lets through what is right."""

import random

import pytest

from rigs.injection import fingerprint, own_fingerprints, payloads
from rigs.openapi import RAW_ROUTES, Document, Place, put, violations
from rigs.timing import welch_t
from rigs.upstream import slowed

TOLD = {
    "paths": {
        "/things/{thing_id}": {
            "post": {
                "parameters": [
                    {"name": "thing_id", "in": "path", "required": True, "schema": {}},
                    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1}},
                ],
                "requestBody": {
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}
                    }
                },
                "responses": {
                    "201": {
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}
                        }
                    }
                },
            }
        }
    },
    "components": {
        "schemas": {
            "Thing": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "count": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                    "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
                },
            }
        }
    },
}
THING = {"$ref": "#/components/schemas/Thing"}
DOCUMENT = Document(TOLD)


@pytest.mark.parametrize(
    "value",
    [{"name": "x"}, {"name": "x", "count": None, "tags": ["a", "b"], "more": 1}],
)
def test_right_value_fits_its_schema(value: object) -> None:
    assert list(violations(DOCUMENT, THING, value)) == []


@pytest.mark.parametrize(
    "value",
    [[], {}, {"name": 7}, {"name": "x", "count": True}, {"name": "x", "tags": ["c"]}, None, "x"],
)
def test_wrong_value_does_not(value: object) -> None:
    assert list(violations(DOCUMENT, THING, value))


def test_answer_is_held_against_its_status_and_type() -> None:
    (route,) = DOCUMENT.routes
    asked = DOCUMENT.request(route, lambda _: "x", random.Random(1))
    right = (201, "application/json", b'{"name":"x"}')
    assert DOCUMENT.violation(asked, *right) is None
    for status, kind, body in (
        (200, "application/json", b'{"name":"x"}'),
        (404, "application/json", b"{}"),
        (201, "text/html", b"{}"),
        (201, "application/json", b'{"name":'),
        (201, "application/json", b"{}"),
    ):
        assert DOCUMENT.violation(asked, status, kind, body) is not None


def test_a_text_is_put_into_every_place_of_a_route() -> None:
    places = dict(DOCUMENT.places())
    filled = {place: put(asked, place, "a'b") for place, asked in places.items()}
    at = {(place.kind, place.keys): asked for place, asked in filled.items()}
    assert at["path", (0,)].path == "/things/a%27b"
    assert ("limit", "a'b") in at["query", ("limit",)].query
    assert at["body", ("name",)].body["name"] == "a'b"
    assert at["body", ("tags", 0)].body["tags"] == ["a'b"]
    assert "a'b" in at["key", ("name",)].body
    assert ("Authorization", "Bearer a'b") in at["header", ("Authorization",)].headers
    assert Place("POST", "/things/{thing_id}", "body", ("count",)) in places


def test_every_request_made_is_of_a_route() -> None:
    document, chance = Document(TOLD, RAW_ROUTES), random.Random(2)
    for route in document.routes:
        for odd in (0.0, 1.0):
            asked = document.request(route, lambda _: "word", chance, odd=odd)
            assert (asked.method, asked.route) == route[:2]
            assert "{" not in asked.path


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("SELECT a FROM t WHERE b = :x -- why", "select a\nfrom t where b = $1;", True),
        (
            "SELECT a FROM t WHERE b = 'it''s' AND c = 7",
            "SELECT a FROM t WHERE b=$1 AND c=$2",
            True,
        ),
        ("SELECT coalesce(a, FALSE), NULL FROM t", "SELECT coalesce(a, $1), $2 FROM t", True),
        ("SELECT a::text FROM t", "SELECT a::uuid FROM t", False),
        ("SELECT a FROM t WHERE b = $1", "SELECT a FROM t WHERE b = $1 OR true", False),
        ("SELECT a FROM t WHERE b = $1", "SELECT a FROM t WHERE b = $1 OR 1=1", False),
        ("SELECT a FROM t WHERE b = ''", "SELECT a FROM t WHERE b = '' UNION SELECT 'x'", False),
    ],
)
def test_fingerprint_is_the_statement_without_its_values(one: str, other: str, same: bool) -> None:
    assert (fingerprint(one) == fingerprint(other)) is same


def test_the_list_of_statements_is_that_of_the_tree() -> None:
    own = own_fingerprints()
    assert fingerprint("SELECT 1 FROM nowhere_at_all WHERE x = 1") not in own
    assert len(own) > 1_000
    assert len(set(payloads())) == 300


def test_welch_tells_a_small_shift_and_no_shift_apart() -> None:
    chance = random.Random(3)
    first = [chance.gauss(1.0, 0.1) for _ in range(4_000)]
    again = [chance.gauss(1.0, 0.1) for _ in range(4_000)]
    later = [one + 0.02 for one in again]
    assert abs(welch_t(first, again)) < 4.5
    assert welch_t(first, later) < -4.5
    assert welch_t(later, first) > 4.5


def test_slowing_is_the_median_of_rounds() -> None:
    calm, hung = [[0.01] * 100], [[0.015] * 100, [0.016] * 100, [9.0] * 100]
    assert slowed(calm, hung) == pytest.approx(1.6)
    assert slowed(calm, [[0.01] * 98 + [0.5] * 2]) == pytest.approx(50)
