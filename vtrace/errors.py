"""The errors of vtrace. Every error that leaves a room is one of these.

::

    VtraceError              exit 1   anything below
    +-- UsageError           exit 2   an argument, a filter expression, a name that is not there
    |   +-- FilterError      exit 2   ... with the column where it went wrong
    +-- LossError            exit 3   more loss than --max-loss allows
    +-- PrivilegeError       exit 4   what is missing to do this
    +-- UnsupportedError     exit 5   this kernel, QEMU or machine cannot do it
    +-- InputError           exit 6   a file that is damaged, foreign or too new

The text of an error is one sentence: where, what was expected, what was found, and the way out.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "ExitCode",
    "FilterError",
    "InputError",
    "LossError",
    "PrivilegeError",
    "UnsupportedError",
    "UsageError",
    "VtraceError",
]


class ExitCode(IntEnum):
    """Exit codes of the ``vtrace`` command."""

    OK = 0
    FINDING = 1
    USAGE = 2
    LOSS = 3
    PRIVILEGE = 4
    UNSUPPORTED = 5
    INPUT = 6
    INTERRUPTED = 130


class VtraceError(Exception):
    """Base of all errors that vtrace raises on purpose."""

    exit_code = ExitCode.FINDING


class UsageError(VtraceError):
    """The command line, or a name given on it, makes no sense here."""

    exit_code = ExitCode.USAGE


class FilterError(UsageError):
    """A filter expression cannot be used."""

    def __init__(self, message: str, *, column: int | None = None) -> None:
        super().__init__(message)
        self.column = column
        """Where in the expression, from 0; None if it concerns the whole."""


class LossError(VtraceError):
    """More records were lost than the caller allows."""

    exit_code = ExitCode.LOSS


class PrivilegeError(VtraceError):
    """A right is missing."""

    exit_code = ExitCode.PRIVILEGE


class UnsupportedError(VtraceError):
    """This kernel or machine cannot do what was asked."""

    exit_code = ExitCode.UNSUPPORTED


class InputError(VtraceError):
    """An input is damaged, foreign or too new."""

    exit_code = ExitCode.INPUT
