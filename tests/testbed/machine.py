"""What a nested host and its guests have in common: commands."""

import shlex
from collections.abc import Mapping, Sequence

from tests.testbed.channel import Channel, Job, Result

__all__ = ["Machine"]


class Machine:
    """Something that runs commands."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._channel: Channel | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def channel(self) -> Channel:
        """The command channel; there once the machine is up."""
        assert self._channel is not None, f"{self.name} is not up"
        return self._channel

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float = 60,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a command to its end.

        Args:
            command: For the shell if it is a text, else a program and arguments.
            timeout: Seconds after which it is killed.
            check: Whether another exit status than 0 is an error.
            env: Additions to its environment.

        Raises:
            CommandError: It failed (with check), or took too long.
        """
        result = self.start(command, env=env).wait(timeout)
        return result.check() if check else result

    def start(
        self,
        command: str | Sequence[str],
        *,
        stdin: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Job:
        """Start a command in the background."""
        text = command if isinstance(command, str) else f"exec {shlex.join(command)}"
        exports = "".join(
            f"export {key}={shlex.quote(value)}; " for key, value in (env or {}).items()
        )
        return self.channel.start(exports + text, stdin=stdin)
