"""OpenAI's moderations: checked, then passed through."""

from typing import Any

import msgspec

from helix.core.errors import HelixError
from helix.gateway.dialects.reading import decoded, items_of, object_of, packed, text_in
from helix.gateway.errors import WrongField
from helix.gateway.intake import IntakeLimits, params_of, read_fields, read_model, read_options
from helix.gateway.render import error_body
from helix.gateway.types import CallRequest
from helix.providers import Operation

__all__ = ["MODEL", "Moderations"]

MODEL = "omni-moderation-latest"
"""The model when none is named, as at OpenAI."""

INPUTS_MAX = 2_048


class Moderations:
    """POST /v1/moderations."""

    name = "moderations"
    path = "/v1/moderations"
    operation = Operation.MODERATIONS
    native: Operation | None = Operation.MODERATIONS
    identity = True

    def read(self, body: bytes, limits: IntakeLimits) -> CallRequest:
        """Return the call that a body asks for; see `types.Dialect`."""
        text, fields = read_fields(body, limits)
        if bytes(fields.get("model", b"null")) == b"null":
            fields["model"] = packed(MODEL)
        model, options = read_model(fields), read_options(fields)
        needs = _check_input(decoded(fields, "input"))
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
            needs=needs,
        )

    def whole(self, answer: dict[str, Any], request: CallRequest, request_id: str) -> bytes:
        """Return the answer as it is."""
        return msgspec.json.encode(answer)

    def stream(self, request: CallRequest, request_id: str) -> Any:
        """Moderations do not stream."""
        raise WrongField("stream", "this API has no streams")

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return an error as OpenAI tells it."""
        return error_body(error, request_id)


def _check_input(value: Any) -> frozenset[str]:
    if type(value) is str:
        return frozenset()
    if type(value) is not list:
        raise WrongField(
            "input", "it is missing" if value is None else "it must be a string or array"
        )
    if not 0 < len(value) <= INPUTS_MAX:
        raise WrongField("input", f"there are {len(value)}, and 1 to {INPUTS_MAX} are taken")
    needs = set()
    for path, item in items_of(value, "input"):
        if type(item) is str:
            continue
        part = object_of(item, path)
        kind = text_in(part, "type", path)
        if kind == "text":
            text_in(part, "text", path)
        elif kind == "image_url":
            text_in(
                object_of(part.get("image_url"), f"{path}.image_url"), "url", f"{path}.image_url"
            )
            needs.add("vision")
    return frozenset(needs)
