"""The one place that wires the domains together into one ASGI application."""

from helix.app.wiring import App, build, started
from helix.app.work import task_registry

__all__ = ["App", "build", "started", "task_registry"]
