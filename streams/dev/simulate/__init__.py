"""The seeded simulator: accounts with habits, frauds among them, labels with delay."""

from streams.dev.simulate.stream import Plan, Stream, simulate

__all__ = ["Plan", "Stream", "simulate"]
