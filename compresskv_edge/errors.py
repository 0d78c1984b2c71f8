"""Everything that compresskv_edge raises on purpose: one tree, so that `except CompressKVError` catches all of it.

A message says what is wrong, the value that was given, and the remedy.
"""

from __future__ import annotations


class CompressKVError(Exception):
    """Base of all errors of this package."""


class LibraryError(CompressKVError):
    """The native library is missing, foreign or of another version, or stock `llama_cpp` was imported first."""


class ProfileError(CompressKVError, ValueError):
    """A profile cannot be read, is invalid, or belongs to another model."""


class BudgetError(CompressKVError, ValueError):
    """A budget that no selection can meet."""


class UnsupportedModelError(CompressKVError, ValueError):
    """A model that cannot be compressed, or whose header cannot be read."""


class ModelError(CompressKVError, ValueError):
    """A model that has no such name, is not on this machine, cannot be fetched, or is damaged."""


class EngineError(CompressKVError, RuntimeError):
    """The native engine reported a failure."""


class ContextError(CompressKVError, ValueError):
    """Tokens that do not fit the context."""


class TokenError(CompressKVError, ValueError):
    """A token id that the model's vocabulary does not have."""


class SchemaError(CompressKVError, ValueError):
    """A JSON schema that no answer can be held to, or in part only."""


class CalibrationError(CompressKVError, ValueError):
    """A model or text that a profile cannot be calibrated on, or a calibration that was not allowed."""


class EvaluationError(CompressKVError, ValueError):
    """A suite that cannot be run as asked: data, a form, a length, or results of another run."""


class PolicyError(CompressKVError, ValueError):
    """A policy that does not exist, an option that it does not have, or one that this model or mode cannot run."""


class ChatError(CompressKVError, ValueError):
    """A document, a saved chat or a model that the chat cannot use, or an extra that is not installed."""


class SessionError(CompressKVError, ValueError):
    """A session file that is damaged, foreign, of another version, or saved with another model or profile."""
