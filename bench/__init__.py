"""Measurements: each module is a command that prints a table and the machine's facts."""
