"""Embeddings in OpenAI's format: the request read, the answer made."""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from helix.core.errors import BadInput
from helix.providers.errors import FieldUnsupported

__all__ = ["Embeddings", "embeddings_answer", "read_embeddings"]

INPUTS_MAX = 2_048
_HINTS = ("user", "safety_identifier", "metadata")
_Fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(slots=True)
class Embeddings:
    """What is to be embedded; `single` when one text stood alone, not in a list."""

    texts: list[str]
    single: bool
    dimensions: int | None
    as_base64: bool
    rest: dict[str, msgspec.Raw]


def read_embeddings(provider: str, body: bytes) -> Embeddings:
    """Return the embeddings request in `body`; raises BadInput, FieldUnsupported."""
    try:
        fields = _Fields.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadInput("the body must be a JSON object") from exc
    fields.pop("model", None)
    for name in _HINTS:
        fields.pop(name, None)
    told = _value(fields, "input")
    if isinstance(told, str):
        texts, single = [told], True
    elif isinstance(told, list) and told and all(isinstance(one, str) for one in told):
        texts, single = told, False
    elif isinstance(told, list) and told:
        raise FieldUnsupported(provider, "input", "takes texts, not tokens")
    else:
        raise BadInput("input: send a text, or a list of texts", param="input")
    if len(texts) > INPUTS_MAX:
        raise BadInput(f"input: at most {INPUTS_MAX} texts a call", param="input")
    dimensions = _value(fields, "dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise BadInput("dimensions: it must be a whole number from 1", param="dimensions")
    encoding = _value(fields, "encoding_format")
    if encoding not in {None, "float", "base64"}:
        raise BadInput("encoding_format: it is float or base64", param="encoding_format")
    return Embeddings(texts, single, dimensions, encoding == "base64", fields)


def _value(fields: dict[str, msgspec.Raw], name: str) -> Any:
    raw = fields.pop(name, None)
    return None if raw is None else msgspec.json.decode(raw)


def embeddings_answer(
    vectors: Sequence[Sequence[float]],
    *,
    model: str,
    as_base64: bool,
    prompt_tokens: int | None,
) -> dict[str, Any]:
    """Return the answer; usage is left out when the provider did not tell it."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _packed(vector) if as_base64 else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    answer: dict[str, Any] = {"object": "list", "data": data, "model": model}
    if prompt_tokens is not None:
        answer["usage"] = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return answer


def _packed(vector: Sequence[float]) -> str:
    """Return float32 numbers, little-endian, as base64."""
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (struct.error, OverflowError) as exc:
        raise ValueError("a number of a vector is no float32") from exc
