"""The QEMU guest agent: files of a guest, asked for over its socket.

One JSON object a line each way (docs/interop/qemu-ga-ref of QEMU). The guest is not trusted: its
answers are bounded in size and time, and what makes no sense ends the talk.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import socket
import time
from typing import Any, Final, Self

from vtrace.errors import VtraceError

__all__ = ["Agent", "RefusedError"]

_TALK_S: Final = 5.0
_LONGEST_ANSWER: Final = 2 << 20
_LONGEST_FILE: Final = 1 << 20
_READ_BYTES: Final = 256 << 10
_POLL_S: Final = 0.05
_SENTINEL: Final = b"\xff"


class RefusedError(VtraceError):
    """The agent does not know a command, or may not follow it."""


class Agent:
    """A talk with an agent; ``with`` ends it.

    Raises:
        VtraceError: Nobody answers.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._deadline = time.monotonic() + _TALK_S
        self._inbox = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(_TALK_S)
            self._socket.connect(path)
            self._synchronize()
        except OSError as error:
            self._socket.close()
            raise VtraceError(f"{path}: {error.strerror or 'no answer'}") from error
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Return what a command returns.

        Raises:
            RefusedError: The agent answers with an error.
            VtraceError: It does not answer, or makes no sense.
        """
        self._send({"execute": command, "arguments": arguments})
        answer = self._answer()
        if "error" in answer:
            error = answer["error"]
            said = error.get("desc") if isinstance(error, dict) else None
            raise RefusedError(f"{command}: {str(said)[:200]}")
        return answer.get("return")

    def read(self, path: str) -> str:
        """Return a file of the guest.

        Raises:
            VtraceError: It cannot be had.
        """
        handle = self.ask("guest-file-open", path=path, mode="r")
        parts, size = [], 0
        try:
            while size < _LONGEST_FILE:
                found = self.ask("guest-file-read", handle=handle, count=_READ_BYTES)
                part = decoded(found, "buf-b64")
                parts.append(part)
                size += len(part)
                if not part or found.get("eof"):
                    break
        finally:
            # An agent keeps what is left open.
            with contextlib.suppress(VtraceError):
                self.ask("guest-file-close", handle=handle)
        return b"".join(parts).decode("utf-8", "backslashreplace")

    def run(self, script: str) -> str:
        """Return what a shell script in the guest prints.

        Raises:
            VtraceError: It cannot be run, or does not end.
        """
        arguments = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True}
        started = self.ask("guest-exec", **arguments)
        pid = started.get("pid") if isinstance(started, dict) else None
        while True:
            status = self.ask("guest-exec-status", pid=pid)
            if not isinstance(status, dict):
                raise VtraceError("the guest's agent makes no sense")
            if status.get("exited"):
                return decoded(status, "out-data").decode("utf-8", "backslashreplace")
            time.sleep(_POLL_S)

    def _synchronize(self) -> None:
        # Whatever another client has left: the agent drops it at the FF, and so do we.
        number = secrets.randbelow(1 << 31)
        self._socket.sendall(_SENTINEL)
        self._send({"execute": "guest-sync-delimited", "arguments": {"id": number}})
        while True:
            self._fill_until(_SENTINEL)
            with contextlib.suppress(VtraceError):
                if self._answer().get("return") == number:
                    return

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise VtraceError(f"{self._path}: {error.strerror or 'no answer'}") from error

    def _answer(self) -> dict[str, Any]:
        line = self._fill_until(b"\n")
        try:
            answer = json.loads(line.lstrip(_SENTINEL))
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise VtraceError("the guest's agent makes no sense")
        return answer

    def _fill_until(self, mark: bytes) -> bytes:
        while (end := self._inbox.find(mark)) < 0:
            if len(self._inbox) > _LONGEST_ANSWER:
                raise VtraceError("the guest's agent does not stop talking")
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise VtraceError(f"the guest's agent did not answer within {_TALK_S:g} s")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError as error:
                raise VtraceError(f"{self._path}: {error.strerror}") from error
            if not data:
                raise VtraceError(f"{self._path}: closed by the other side")
            self._inbox += data
        taken = bytes(self._inbox[:end])
        del self._inbox[: end + len(mark)]
        return taken


def decoded(answer: Any, name: str) -> bytes:
    text = answer.get(name, "") if isinstance(answer, dict) else None
    if not isinstance(text, str):
        raise VtraceError("the guest's agent makes no sense")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise VtraceError("the guest's agent makes no sense") from error
