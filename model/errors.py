"""Errors that the model raises on purpose, and the base that all of fraudstream's errors share.

In: nothing. Out: exception classes. They stand here, in the lower package, so that `streams.errors`
can draw one tree above both; it re-exports them. Does not know who catches them.
"""

from __future__ import annotations


class FraudstreamError(Exception):
    """Base of every deliberate error; `remedy` says what the user can do."""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message if remedy is None else f"{message}. {remedy}")
        self.remedy = remedy


class BundleError(FraudstreamError):
    """A model bundle is damaged, foreign or does not fit the features."""


class DatasetError(FraudstreamError):
    """A training set is damaged, foreign or too small for what was asked."""
