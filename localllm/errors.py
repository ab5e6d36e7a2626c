"""Every exception a user can meet, each with one clear sentence and, where there is one, a hint.

Library code raises these and never prints; `cli/failures.py` maps each class to an exit code.
"""

from __future__ import annotations


class LocalLLMError(Exception):
    """Base of all. `str(error)` is the sentence; `hint` the next thing to type, or None."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(LocalLLMError):
    """A flag, an argument or a setting that cannot be used as given."""


class ModelNotFoundError(LocalLLMError):
    """No model of that name, or several; the candidates are in the message or the hint."""


class AccessError(LocalLLMError):
    """Authentication is missing or a licence has not been accepted."""


class NetworkError(LocalLLMError):
    """The network failed, or is needed while offline."""


class IntegrityError(LocalLLMError):
    """A checksum does not match, or a file is malformed or unsupported."""


class DoesNotFitError(LocalLLMError):
    """Not enough memory or disk; the message holds what is needed and what there is."""


class ContextFullError(LocalLLMError):
    """The prompt or the conversation is longer than the context; the message holds both counts."""


class InterruptedByUserError(LocalLLMError):
    """Generation was cancelled."""


class DeadlineError(LocalLLMError):
    """The time the user allowed has passed."""


class EngineError(LocalLLMError):
    """The engine met a value that is not finite, or failed in a way no other class names."""


class TemplateError(LocalLLMError):
    """The model's chat template failed or refused the conversation."""


# How the loaders of libraries and of modules say that memory ran out.
NO_MEMORY = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory")


def says_no_memory(error: Exception) -> bool:
    """Whether memory ran out, by the words of an error that is no MemoryError."""
    return isinstance(error, ImportError | OSError) and any(w in str(error) for w in NO_MEMORY)
