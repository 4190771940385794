"""What a translated call costs: CPU microseconds for a chunk of a stream, and for a request.

    python -m bench.wires [--chunks 20000] [--rounds 5]

No network: the bytes of a provider's stream are fed in pieces of one event, as they arrive one by
one from a slow model, and in pieces of 16 kB, as they arrive from a fast one. `openai` is what the
gateway itself does with every chunk whatever the provider (cutting, reading, noting it), so that
the translations stand beside what a chunk costs anyway. The best of the rounds is printed.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import msgspec

from bench.machine import facts
from helix.gateway.sse import DONE, EventSplitter, Transcript, data_of
from helix.providers.wires.anthropic_answer import MessagesTranslator
from helix.providers.wires.anthropic_request import messages_request
from helix.providers.wires.canonical import Chat, read_chat
from helix.providers.wires.chunks import Translator
from helix.providers.wires.gemini_answer import GeminiTranslator
from helix.providers.wires.gemini_request import generate_request
from helix.providers.wires.ollama_answer import OllamaTranslator
from helix.providers.wires.ollama_request import chat_request

_encode = msgspec.json.Encoder().encode
_BIG_BYTES = 16_384
_QUESTION = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "You answer in one short paragraph. " * 6},
        {"role": "user", "content": "What is the answer to everything, and why? " * 8},
    ],
    "temperature": 0.2,
    "stream": True,
    "stream_options": {"include_usage": True},
}


def _events() -> dict[str, tuple[bytes, bytes]]:
    """Return one event of text of each wire, and what ends its stream."""
    choice = {"index": 0, "delta": {"content": " word"}, "finish_reason": None}
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    openai = b"data: " + _encode({**chunk, "choices": [choice]}) + b"\n\n"
    delta = {"type": "text_delta", "text": " word"}
    anthropic = _encode({"type": "content_block_delta", "index": 0, "delta": delta})
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 4, "totalTokenCount": 13}
    part = {"content": {"parts": [{"text": " word"}], "role": "model"}, "index": 0}
    gemini = {"candidates": [part], "usageMetadata": usage, "modelVersion": "m"}
    line = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": False}
    ollama = _encode({**line, "message": {"role": "assistant", "content": " word"}}) + b"\n"
    return {
        "openai": (openai, b"data: [DONE]\n\n"),
        "anthropic": (
            b"event: content_block_delta\ndata: " + anthropic + b"\n\n",
            b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        ),
        "gemini": (b"data: " + _encode(gemini) + b"\r\n\r\n", b""),
        "ollama": (ollama, b'{"model":"m","done":true,"done_reason":"stop"}\n'),
    }


def _translators() -> dict[str, Callable[[], Translator]]:
    return {
        "anthropic": MessagesTranslator,
        "gemini": lambda: GeminiTranslator(model="m", answer_id="a"),
        "ollama": lambda: OllamaTranslator(model="m", answer_id="a"),
    }


def _gateway(pieces: list[bytes]) -> None:
    splitter, transcript = EventSplitter(), Transcript()
    for piece in pieces:
        for event in splitter.feed(piece):
            told = data_of(event)
            if told and told != DONE:
                transcript.take(msgspec.json.decode(told))


def _translate(make: Callable[[], Translator], pieces: list[bytes]) -> None:
    translator = make()
    for piece in pieces:
        b"".join([b"data: " + _encode(chunk) + b"\n\n" for chunk in translator.feed(piece)])
    translator.end()


def _best_us(work: Callable[[], None], times: int, rounds: int) -> float:
    best = float("inf")
    for _round in range(rounds):
        begun = time.process_time()
        work()
        best = min(best, time.process_time() - begun)
    return best / times * 1e6


def _request_us(say: Callable[[Chat, str], Any], model: str, rounds: int) -> float:
    body, times = _encode(_QUESTION), 2_000

    def work() -> None:
        for _number in range(times):
            _encode(say(read_chat("p", body), model))

    return _best_us(work, times, rounds)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    requests: dict[str, Callable[[], float]] = {
        "anthropic": lambda: _request_us(messages_request, "claude-sonnet-4-5", given.rounds),
        "gemini": lambda: _request_us(generate_request, "gemini-2.5-flash", given.rounds),
        "ollama": lambda: _request_us(chat_request, "llama3.2", given.rounds),
    }
    print(facts())
    print(f"{'wire':<10} {'us/chunk':>9} {'us/chunk, 16 kB':>16} {'us/request':>11}")
    for wire, (event, last) in _events().items():
        single = [event] * given.chunks + [last]
        stream = b"".join(single)
        big = [stream[at : at + _BIG_BYTES] for at in range(0, len(stream), _BIG_BYTES)]
        make = _translators().get(wire)

        def run(pieces: list[bytes], make: Callable[[], Translator] | None = make) -> None:
            _gateway(pieces) if make is None else _translate(make, pieces)

        slow = _best_us(lambda run=run, p=single: run(p), given.chunks, given.rounds)  # type: ignore[misc]
        fast = _best_us(lambda run=run, p=big: run(p), given.chunks, given.rounds)  # type: ignore[misc]
        asked = f"{requests[wire]():.1f}" if wire in requests else "-"
        print(f"{wire:<10} {slow:>9.2f} {fast:>16.2f} {asked:>11}")


if __name__ == "__main__":
    main()
