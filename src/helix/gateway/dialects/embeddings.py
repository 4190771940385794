"""OpenAI's embeddings: checked, then passed through; numbers as the client wants them."""

import array
import base64
import binascii
import sys
from typing import Any

import msgspec

from helix.core.errors import HelixError
from helix.gateway.dialects.reading import decoded, items_of, one_of, packed, within
from helix.gateway.errors import WrongField
from helix.gateway.intake import (
    IntakeLimits,
    params_of,
    read_fields,
    read_model,
    read_options,
)
from helix.gateway.render import error_body
from helix.gateway.types import CallRequest
from helix.providers import Operation

__all__ = ["Embeddings"]

INPUTS_MAX = 2_048
DIMENSIONS_MAX = 65_536
TOKEN_MAX = 2**31 - 1


class Embeddings:
    """POST /v1/embeddings."""

    name = "embeddings"
    path = "/v1/embeddings"
    operation = Operation.EMBEDDINGS
    native: Operation | None = Operation.EMBEDDINGS
    identity = True

    def read(self, body: bytes, limits: IntakeLimits) -> CallRequest:
        """Return the call that a body asks for; see `types.Dialect`."""
        text, fields = read_fields(body, limits)
        model, options = read_model(fields), read_options(fields)
        _check_input(decoded(fields, "input"))
        one_of(decoded(fields, "encoding_format"), "encoding_format", "float", "base64")
        dimensions = decoded(fields, "dimensions")
        if dimensions is not None:
            within(dimensions, "dimensions", 1, DIMENSIONS_MAX)
        return CallRequest(
            text=text,
            body_bytes=len(body),
            fields=fields,
            model=model,
            stream=False,
            include_usage=False,
            params=params_of(fields),
            options=options,
            operation=self.operation,
            dialect=self.name,
            own=fields,
        )

    def whole(self, answer: dict[str, Any], request: CallRequest, request_id: str) -> bytes:
        """Return the answer with its vectors in the encoding asked for, whichever they came in.

        base64 is of little-endian 32-bit floats.
        """
        coded = request.fields.get("encoding_format") == packed("base64")
        data = answer.get("data")
        if type(data) is list:
            for one in data:
                if type(one) is dict:
                    one["embedding"] = _coded(one.get("embedding"), coded=coded)
        return msgspec.json.encode(answer)

    def vectors(self, answer: dict[str, Any]) -> list[list[float]]:
        """Return the vectors of an answer in the order of the texts, decoded where they are coded.

        What is no vector is left out.
        """
        data = answer.get("data")
        told = [one for one in data if type(one) is dict] if type(data) is list else []
        told.sort(key=lambda one: one["index"] if type(one.get("index")) is int else 0)
        found = [_coded(one.get("embedding"), coded=False) for one in told]
        return [vector for vector in found if type(vector) is list]

    def stream(self, request: CallRequest, request_id: str) -> Any:
        """Embeddings do not stream."""
        raise WrongField("stream", "this API has no streams")

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return an error as OpenAI tells it."""
        return error_body(error, request_id)


def _check_input(value: Any) -> None:
    """Refuse all but a text, texts, tokens, or lists of tokens; none may be empty."""
    if type(value) is str:
        if not value:
            raise WrongField("input", "it is empty")
        return
    if type(value) is not list:
        raise WrongField("input", "it must be a string or an array" if value else "it is missing")
    if not value:
        raise WrongField("input", "it is empty")
    if type(value[0]) is int:
        _check_tokens(value, "input")
        return
    if len(value) > INPUTS_MAX:
        raise WrongField("input", f"there are {len(value)}, and at most {INPUTS_MAX} are taken")
    of = type(value[0])
    for path, item in items_of(value, "input"):
        if type(item) is not of or of not in {str, list}:
            raise WrongField(path, "inputs must all be strings, or all arrays of tokens")
        if not item:
            raise WrongField(path, "it is empty")
        if of is list:
            _check_tokens(item, path)


def _check_tokens(tokens: list[Any], path: str) -> None:
    for at, token in items_of(tokens, path):
        within(token, at, 0, TOKEN_MAX)


def _coded(vector: Any, *, coded: bool) -> Any:
    if coded and type(vector) is list:
        return base64.b64encode(_little_endian(array.array("f", vector)).tobytes()).decode()
    if not coded and type(vector) is str:
        try:
            floats = array.array("f", base64.b64decode(vector, validate=True))
        except (binascii.Error, ValueError):
            return vector
        return _little_endian(floats).tolist()
    return vector


def _little_endian(floats: "array.array[float]") -> "array.array[float]":
    if sys.byteorder == "big":
        floats.byteswap()
    return floats
