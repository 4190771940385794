"""What the gateway is measured beside: an nginx that answers as a provider, nginx as a plain proxy,
and LiteLLM's proxy out of a virtual environment of its own (make bench-litellm)."""

import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import free_port, wait_for_port

__all__ = [
    "ANSWER",
    "LITELLM",
    "QUESTION",
    "LiteLLM",
    "litellm",
    "nginx",
    "provider_server",
    "proxy_server",
    "until_answered",
]

LITELLM = Path(__file__).parent / "peers" / ".litellm" / "bin" / "litellm"
_START_TIMEOUT_S = 180.0
ANSWER: dict[str, Any] = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1_760_000_000,
    "model": "bench",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Forty-two is the answer. " * 12},
        }
    ],
    "usage": {"prompt_tokens": 120, "completion_tokens": 84, "total_tokens": 204},
}
QUESTION: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "You answer in one short paragraph. " * 6},
        {"role": "user", "content": "What is the answer to everything, and why? " * 8},
    ],
    "temperature": 0.2,
}


def _events() -> str:
    """Return the fixed answer as a stream of events, one word a chunk."""
    head = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "model": "bench"}
    lines = []
    for word in ["Forty", "-two", " is", " the", " answer", "."] * 3:
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        lines.append({**head, "created": 1, "choices": [choice]})
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    lines.append({**head, "created": 1, "choices": [last]})
    lines.append({**head, "created": 1, "choices": [], "usage": ANSWER["usage"]})
    return "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"


def _nginx_conf(directory: Path, server: str, upstream: str = "") -> str:
    return f"""
daemon off; master_process off; worker_processes 1; pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;
  scgi_temp_path {directory}/s;
  {upstream}
  {server}
}}
"""


@contextmanager
def nginx(port: int, server: str, upstream: str = "") -> Iterator[int]:
    """Run one nginx without workers and yield its pid."""
    with tempfile.TemporaryDirectory(prefix="helix-bench-") as name:
        directory = Path(name)
        (directory / "conf").write_text(_nginx_conf(directory, server, upstream))
        process = subprocess.Popen(["nginx", "-p", name, "-c", "conf"], stderr=subprocess.DEVNULL)
        try:
            wait_for_port(port, process)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def provider_server(port: int) -> str:
    """Return the configuration of a provider that answers at once, whole or as a stream."""
    return f"""
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location /v1/chat/completions {{
      default_type application/json; return 200 '{json.dumps(ANSWER)}';
    }}
    location /sse/v1/chat/completions {{
      default_type text/event-stream; return 200 '{_events()}';
    }}
  }}"""


def proxy_server(port: int) -> str:
    """Return the configuration of a plain proxy to the upstream `provider`."""
    return f"""
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}"""


def until_answered(url: str, body: str, key: str, process: "subprocess.Popen[Any]") -> None:
    """Call until the first answer; raises RuntimeError when `process` ends, or after minutes."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    call = urllib.request.Request(url, body.encode(), headers)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(call, timeout=30) as answer:
                answer.read()
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no answer from {url}") from None
            time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class LiteLLM:
    """A running proxy: no database, so nothing of a call is kept. `start_s` to its first answer."""

    url: str
    pid: int
    key: str
    start_s: float


@contextmanager
def litellm(provider_port: int, body: str) -> Iterator[LiteLLM]:
    """Run LiteLLM's proxy, one worker, to the provider, and yield it once it has answered."""
    port, key = free_port(), f"sk-{secrets.token_hex(16)}"
    with tempfile.TemporaryDirectory(prefix="helix-bench-") as name:
        base = f"http://127.0.0.1:{provider_port}"
        models = [("bench", f"{base}/v1"), ("bench-sse", f"{base}/sse/v1")]
        config = {
            "model_list": [
                {
                    "model_name": model,
                    "litellm_params": {"model": "openai/bench", "api_base": at, "api_key": "none"},
                }
                for model, at in models
            ],
            "litellm_settings": {"telemetry": False},
        }
        (Path(name) / "config.yaml").write_text(json.dumps(config))
        begun_s = time.monotonic()
        with (Path(name) / "log").open("w") as log:
            process = subprocess.Popen(
                [LITELLM, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)],
                cwd=name,
                env=_environment(key),
                stdout=log,
                stderr=log,
            )
        try:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            until_answered(url, body, key, process)
            yield LiteLLM(url, process.pid, key, time.monotonic() - begun_s)
        finally:
            process.terminate()
            process.wait(30)


def _environment(key: str) -> Mapping[str, str]:
    """Return the recommended settings for production: no access log, errors only."""
    return {
        **os.environ,
        "LITELLM_MASTER_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
    }
