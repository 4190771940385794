"""A provider's own responses go to the client under our id, so that it can go on from them."""

import json

from helix.gateway.dialects import Responses
from helix.gateway.dialects.responses_out import response_id
from helix.gateway.relay import relay_of
from helix.gateway.sse import Transcript
from helix.providers import Operation
from tests.gateway.dialects.answers import LIMITS, REQUEST_ID

UPSTREAM_ID = "1190f5f0-0000-7000-8000-00000000abcd"


def test_streamed_response_goes_by_our_id_and_is_recorded_with_the_providers() -> None:
    dialect = Responses()
    request = dialect.read(json.dumps({"model": "m", "input": "x"}).encode(), LIMITS)
    provider = dialect.stream(request, UPSTREAM_ID)
    sent = provider.chunk({"choices": [{"index": 0, "delta": {"content": "hello"}}]})
    sent += provider.chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    sent += provider.end()
    transcript = Transcript()
    relay = relay_of(
        dialect,
        request,
        name="openai",
        transcript=transcript,
        operation=Operation.RESPONSES,
        request_id=REQUEST_ID,
    )
    events = [event + b"\n\n" for event in sent.split(b"\n\n") if event]
    told = b"".join(relay.take(event) for event in events)
    assert relay.end is not None
    told += relay.end
    assert told == sent.replace(
        f'"{response_id(UPSTREAM_ID)}"'.encode(), f'"{response_id(REQUEST_ID)}"'.encode()
    )
    assert told != sent
    assert transcript.upstream_id == response_id(UPSTREAM_ID)
    assert transcript.content == "hello"
