"""What can go wrong in the test bed.

LabError
├── MissingPiece   something that this machine lacks
├── BootError      a host or guest did not come up, twice
├── ChannelClosed  the machine behind a command channel is gone
└── CommandError   a command ended with another status than 0, or took too long
"""

__all__ = ["BootError", "ChannelClosed", "CommandError", "LabError", "MissingPiece"]


class LabError(Exception):
    """Base of all errors of the test bed."""


class MissingPiece(LabError):
    """Something that the test bed needs is not on this machine."""


class BootError(LabError):
    """A nested host or guest did not come up."""


class ChannelClosed(LabError):
    """The machine behind a command channel is gone."""


class CommandError(LabError):
    """A command in a host or guest failed, or did not end in time."""
