"""Helix: the LLM back end you run as one process on one PostgreSQL."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("helix-backend")
