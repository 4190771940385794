"""The program put together: what the server, workers and commands start."""

from helix.app.wiring import App, build, started
from helix.app.worker import worker_tasks

__all__ = ["App", "build", "started", "worker_tasks"]
