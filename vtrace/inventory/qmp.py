"""QEMU's monitor (QMP), asked only where a user names its socket: one serves one client at a time.

Lines of JSON each way. Own code, as it is a page: PyPI's ``qemu.qmp`` is QEMU's own and well kept,
but asyncio all through, and it would be the only thing here that needs an event loop. Answers are
bounded in size and time. The ``x-query-virtio*`` commands are there since QEMU 7.2.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any, Final, Self

from vtrace.errors import PrivilegeError, UnsupportedError, UsageError, VtraceError

__all__ = ["FEATURE_BITS", "Qmp", "QmpError", "VirtioDevice", "VirtioStatus"]

_TALK_S: Final = 5.0
_LONGEST_ANSWER: Final = 32 << 20
_CHUNK: Final = 1 << 16
_MOST_EVENTS: Final = 100_000
_MOST_NAMES: Final = 128

FEATURE_BITS: Final = {
    "VIRTIO_F_NOTIFY_ON_EMPTY": 24,
    "VIRTIO_F_ANY_LAYOUT": 27,
    "VIRTIO_RING_F_INDIRECT_DESC": 28,
    "VIRTIO_RING_F_EVENT_IDX": 29,
    "VIRTIO_F_VERSION_1": 32,
    "VIRTIO_F_IOMMU_PLATFORM": 33,
    "VIRTIO_F_ACCESS_PLATFORM": 33,
    "VIRTIO_F_RING_PACKED": 34,
    "VIRTIO_F_IN_ORDER": 35,
    "VIRTIO_F_ORDER_PLATFORM": 36,
    "VIRTIO_F_SR_IOV": 37,
    "VIRTIO_F_NOTIFICATION_DATA": 38,
    "VIRTIO_F_RING_RESET": 40,
}
"""Features of rings and transports by QEMU's names."""


class QmpError(VtraceError):
    """QEMU answers a command with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioDevice:
    """A virtio device as QEMU knows it."""

    path: str
    """QOM path of its virtio part."""
    name: str
    """virtio-net, virtio-blk, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioStatus:
    """What driver and device have agreed on."""

    name: str
    features: tuple[str, ...]
    """Negotiated features by QEMU's names."""
    bits: int
    """Those of them that have a bit in ``FEATURE_BITS``, and those that QEMU has no name for."""
    status: tuple[str, ...]
    """What the driver has set: ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, ..."""
    queues: int
    started: bool
    broken: bool
    vhost: bool
    """vhost serves it."""


class Qmp:
    """A talk with the monitor of one QEMU; ``with`` ends it.

    Args:
        address: Path of a unix socket, or ``HOST:PORT``.
        timeout_s: Limit of each command.

    Raises:
        UsageError: Nothing listens there, or it is no monitor.
        PrivilegeError: The socket may not be opened.
        VtraceError: No answer in time.
    """

    def __init__(self, address: str, timeout_s: float = _TALK_S) -> None:
        self.address, self._timeout_s = address, timeout_s
        self._inbox = bytearray()
        self._deadline = time.monotonic() + timeout_s
        self._socket = self._open()
        try:
            self.version = self._greeted()
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the talk."""
        self._socket.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Return what a command returns.

        Raises:
            QmpError: QEMU answers with an error.
            UnsupportedError: This QEMU does not know the command.
            VtraceError: It does not answer in time, or makes no sense.
        """
        self._deadline = time.monotonic() + self._timeout_s
        message = {"execute": command, "arguments": arguments}
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise self._gone(error) from error
        answer = self._answer()
        if "error" not in answer:
            return answer.get("return")
        refused = dict_of(answer["error"])
        said = str(refused.get("desc"))[:300]
        if refused.get("class") == "CommandNotFound":
            since = "; QEMU 7.2 and later have it" if command.startswith("x-query-virtio") else ""
            raise UnsupportedError(f"QEMU {self.version} does not know {command}{since}")
        raise QmpError(f"QEMU, asked {command}: {said}")

    @property
    def peer(self) -> int | None:
        """Process that listens at the other end; None: not known."""
        if self._socket.family != socket.AF_UNIX:
            return None
        size = struct.calcsize("3i")
        found = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", found)[0]) or None

    # What is asked.

    def virtio_devices(self) -> list[VirtioDevice]:
        """Return the virtio devices."""
        found = self.execute("x-query-virtio")
        return [
            VirtioDevice(path=str(row["path"]), name=str(row["name"]))
            for row in rows_of(found)
            if "path" in row and "name" in row
        ]

    def virtio_status(self, path: str) -> VirtioStatus:
        """Return what driver and device have agreed on."""
        row = dict_of(self.execute("x-query-virtio-status", path=path))
        features = dict_of(row.get("guest-features"))
        names = [*names_of(features.get("transports")), *names_of(features.get("dev-features"))]
        bits = number(features.get("unknown-dev-features")) or 0
        for name in names:
            bits |= 1 << FEATURE_BITS[name] if name in FEATURE_BITS else 0
        statuses = names_of(dict_of(row.get("status")).get("statuses"))
        return VirtioStatus(
            name=str(row.get("name", "")),
            features=tuple(names),
            bits=bits,
            status=tuple(name.removeprefix("VIRTIO_CONFIG_S_") for name in statuses),
            queues=number(row.get("num-vqs")) or 0,
            started=row.get("started") is True,
            broken=row.get("broken") is True,
            vhost=row.get("vhost-started") is True,
        )

    def queue_status(self, path: str, queue: int) -> dict[str, int]:
        """Return addresses (guest-physical) and indices of a virtqueue by QEMU's names.

        On a device that vhost serves it asks the kernel for its index, which is harmless. Do not
        ask it of vhost-user: that stops the ring. Fields that QEMU leaves out are not there.
        """
        return numbers(self.execute("x-query-virtio-queue-status", path=path, queue=queue))

    def vhost_queue_status(self, path: str, queue: int) -> dict[str, int]:
        """Return what vhost has of a virtqueue: ``kick``, ``call``, addresses in QEMU.

        QEMU 7.2 to 10 know the first queue pair of a network device alone.
        """
        return numbers(self.execute("x-query-virtio-vhost-queue-status", path=path, queue=queue))

    def queue_element(self, path: str, queue: int, index: int | None = None) -> dict[str, Any]:
        """Return the chain at a place of the available ring; None: the next to be taken."""
        extra = {} if index is None else {"index": index}
        return dict_of(
            self.execute("x-query-virtio-queue-element", path=path, queue=queue, **extra)
        )

    def balloon_bytes(self) -> int | None:
        """Return the memory that the balloon leaves to the guest; None: there is no balloon."""
        try:
            return number(dict_of(self.execute("query-balloon")).get("actual"))
        except QmpError:
            return None

    def run_state(self) -> str:
        """Return what the guest does: running, paused, prelaunch, ..."""
        return str(dict_of(self.execute("query-status")).get("status", "unknown"))

    def guest_name(self) -> str:
        """Return the name that QEMU was given; empty: none."""
        return str(dict_of(self.execute("query-name")).get("name", ""))

    def human(self, line: str) -> str:
        """Return what the human monitor says to a line."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    # The wire.

    def _open(self) -> socket.socket:
        host, _, port = self.address.rpartition(":")
        unix = "/" in self.address or not (host and port.isdigit())
        door = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
        try:
            if not unix:
                door.close()
                return socket.create_connection((host, int(port)), self._timeout_s)
            door.settimeout(self._timeout_s)
            door.connect(self.address)
        except PermissionError as error:
            door.close()
            raise PrivilegeError(
                f"{self.address}: may not be opened; QEMU's user and root can (sudo)"
            ) from error
        except (BlockingIOError, TimeoutError) as error:
            # Others wait for it already.
            door.close()
            raise self._late() from error
        except (OSError, ValueError, OverflowError) as error:
            door.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"{self.address}: no QMP monitor there ({reason}); QEMU makes one with"
                " -qmp unix:PATH,server=on,wait=off"
            ) from error
        return door

    def _greeted(self) -> str:
        greeting = self._line()
        hello = greeting.get("QMP")
        if not isinstance(hello, dict):
            raise UsageError(f"{self.address}: what answers there is no QMP monitor")
        version = dict_of(dict_of(hello.get("version")).get("qemu"))
        return f"{version.get('major', '?')}.{version.get('minor', '?')}"

    def _answer(self) -> dict[str, Any]:
        for _ in range(_MOST_EVENTS):
            message = self._line()
            if "return" in message or "error" in message:
                return message
        raise VtraceError(f"{self.address}: QEMU sends events and no answer")

    def _line(self) -> dict[str, Any]:
        start = 0
        while (end := self._inbox.find(b"\n", start)) < 0:
            start = len(self._inbox)
            if start > _LONGEST_ANSWER:
                raise VtraceError(
                    f"{self.address}: an answer is longer than {_LONGEST_ANSWER} bytes"
                )
            self._fill()
        line = bytes(self._inbox[:end])
        del self._inbox[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise UsageError(f"{self.address}: what answers there is no QMP monitor")
        return message

    def _fill(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._late()
        try:
            self._socket.settimeout(left)
            data = self._socket.recv(_CHUNK)
        except TimeoutError as error:
            raise self._late() from error
        except OSError as error:
            raise self._gone(error) from error
        if not data:
            raise self._gone(None)
        self._inbox += data

    def _late(self) -> VtraceError:
        return VtraceError(
            f"{self.address}: no answer within {self._timeout_s:g} s; a QMP socket serves one"
            " client: if libvirt has it, give QEMU a second -qmp"
        )

    def _gone(self, error: OSError | None) -> VtraceError:
        reason = (error.strerror if error else None) or "the connection ended"
        return VtraceError(f"{self.address}: QEMU does not answer any more ({reason})")


def dict_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def rows_of(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def names_of(value: Any) -> list[str]:
    """Return names without the explanation that QEMU puts behind them."""
    texts = value if isinstance(value, list) else []
    return [text.partition(":")[0].strip() for text in texts[:_MOST_NAMES] if isinstance(text, str)]


def number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def numbers(value: Any) -> dict[str, int]:
    return {key: n for key, item in dict_of(value).items() if (n := number(item)) is not None}
