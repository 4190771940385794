"""Commands about the running Helix itself: up, status, settings."""
