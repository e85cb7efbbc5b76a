"""The kinds of error that a user can cause or meet; the CLI turns each into one line and an exit code."""

from __future__ import annotations


class TinyclfError(Exception):
    """Base of every error meant for the user: what is wrong, how much, what to do. Exit code 1."""

    exit_code = 1


class BadInput(TinyclfError):
    """A file, an option or a value that the user gave cannot be used."""


class Unsupported(TinyclfError):
    """The input is sound, but this tool cannot handle it (a layer that cannot be lowered, say)."""


class DoesNotFit(TinyclfError):
    """The work needs more memory than the target has."""


class ToolFailed(TinyclfError):
    """An external tool is missing, failed or did not answer."""


class CheckFailed(TinyclfError):
    """Everything ran, and a comparison found a difference that is too large. Exit code 3."""

    exit_code = 3


class Interrupted(TinyclfError):
    """The user, or the system, asked to stop; what was done is saved. Exit code 130."""

    exit_code = 130
