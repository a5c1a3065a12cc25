"""What can go wrong, in words a person can act on.

Every error a user can cause is a `LoraRlhfError`. Its message is one line: what is wrong, where, what to do.
The command line prints it and exits with status 1; nothing else of the exception is ever shown. Each class is
also the standard exception it specialises, so that library users can catch either.
"""

from __future__ import annotations

from collections.abc import Iterable


class LoraRlhfError(Exception):
    """Anything this program reports instead of crashing."""


class SettingsError(LoraRlhfError, ValueError):
    """A setting, preset or request that cannot be honoured."""


class DataError(LoraRlhfError, ValueError):
    """A file of votes, demonstrations or prompts that cannot be read or written."""


class BaseModelError(LoraRlhfError, RuntimeError):
    """A base model that cannot be loaded."""


class AdapterError(LoraRlhfError, RuntimeError):
    """An adapter that is missing, torn, or belongs to another base."""


class ExportError(LoraRlhfError, RuntimeError):
    """An export that cannot be made, or that did not behave as the adapter does here."""


class StoreError(LoraRlhfError, RuntimeError):
    """A workspace that cannot be opened or written."""


class TrainingError(LoraRlhfError, RuntimeError):
    """A run that cannot start or must not go on."""


class RunDiffers(TrainingError):  # noqa: N818 - says what happened
    """A run would go on under other conditions than it began with, and nobody has accepted that yet."""

    def __init__(self, text: str, differences: Iterable[str] = ()) -> None:
        super().__init__(text)
        self.differences = list(differences)
        """What differs, a line each."""


class RunPaused(LoraRlhfError):  # noqa: N818 - asked for, not an error
    """The person asked a run to stop; everything needed to go on is saved."""
