"""QEMU's monitors beside a recording: asked at its start, each few seconds, and at its end.

A monitor serves one client at a time, so it is let go between two looks. Where the user who called
may not open it and root could, the talk is begun before the privilege is dropped, and then held.
A monitor that does not answer is a sentence; recording goes on.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from probes.attach import drop_privilege
from vtrace.errors import PrivilegeError, UnsupportedError, UsageError, VtraceError
from vtrace.inventory.monitor import look, map_of, right_vm
from vtrace.inventory.qmp import Qmp, QmpError
from vtrace.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vtrace.inventory import Vm

__all__ = ["Monitors", "Source"]

_FIRST_S: Final = 12.0
_LAST_S: Final = 6.0


@dataclass(slots=True)
class Source:
    """The monitor of one VM.

    Raises:
        UsageError: Nothing listens at its address, or it is no monitor, or another VM's.
        PrivilegeError: The socket may not be opened.
    """

    vm: Vm
    address: str
    others: Sequence[Vm] = ()
    held: bool = False
    """The talk lasts as long as the recording: only now it could be begun."""
    _talk: Qmp | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.held = not open_to_user(self.address)
        try:
            talk = self._begun()
        except (UsageError, PrivilegeError):
            raise
        except VtraceError:
            # A QEMU that hangs is one to record; that it says nothing comes out at the first look.
            return
        if self.held:
            self._talk = talk
        else:
            talk.close()

    def ask(self, *, whole: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what QEMU says now and, if ``whole``, whose ports and addresses are.

        Raises:
            VtraceError: It does not answer, or is too old.
        """
        talk = self._talk or self._begun()
        try:
            # First, as an older QEMU has no answer to what follows.
            places = map_of(talk, self.vm) if whole else {}
            try:
                said = look(talk, self.vm)
            except (QmpError, UnsupportedError) as error:
                said = {"missing": str(error)}
        except BaseException:
            # An answer may still come, and be taken for that to another question.
            self._talk = None
            talk.close()
            raise
        if self.held:
            self._talk = talk
        else:
            talk.close()
        return said, places

    def close(self) -> None:
        """End the talk."""
        if self._talk:
            self._talk.close()

    def _begun(self) -> Qmp:
        talk = Qmp(self.address)
        try:
            right_vm(talk, self.vm, self.others)
        except BaseException:
            talk.close()
            raise
        return talk


def open_to_user(address: str) -> bool:
    """Tell whether a socket can be opened again once the privilege is dropped."""
    if os.geteuid() != 0 or not os.environ.get("SUDO_UID") or "/" not in address:
        return True
    child = os.fork()
    if child == 0:
        refused = True
        with suppress(BaseException):
            drop_privilege()
            refused = not os.access(address, os.R_OK | os.W_OK)
        os._exit(refused)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Monitors:
    """Asks monitors, each in a thread of its own.

    Args:
        sources: Whom to ask.
        every_s: Time between two looks; 0: at the start and at the end alone.
        say: Is told what a person may want to know meanwhile.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        every_s: float = 10.0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._sources, self._every_s, self._say = sources, every_s, say
        self._lock = threading.Lock()
        self._places: dict[str, dict[str, Any]] = {}
        self._vms: list[Any] | None = None
        # That there is a monitor is known from the first batch on.
        self._looks: dict[str, dict[str, Any]] = {source.vm.name: {} for source in sources}
        self._new_looks, self._new_places = True, False
        self._ending = threading.Event()
        self._first = [threading.Event() for _ in sources]
        self._threads = [
            threading.Thread(target=self._run, args=one, name="vtrace-qmp", daemon=True)
            for one in zip(sources, self._first, strict=True)
        ]

    def begin(self) -> None:
        """Take the first look at each, and go on with the others: the probes are attached."""
        self._say("attached; asking QEMU's monitor")
        deadline = time.monotonic() + _FIRST_S
        for thread in self._threads:
            thread.start()
        for source, taken in zip(self._sources, self._first, strict=True):
            if not taken.wait(max(0.0, deadline - time.monotonic())):
                self._note(source.vm.name, "it did not answer in time")
        with self._lock:
            for name, one in self._looks.items():
                if "missing" in one:
                    self._say(f"{clean(name)}: {one['missing']}; going on without")

    def finish(self) -> None:
        """Take the last look at each: the probes are still attached."""
        self._ending.set()
        deadline = time.monotonic() + _LAST_S
        for source, thread in zip(self._sources, self._threads, strict=True):
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._note(source.vm.name, "it did not answer at the end")
            else:
                source.close()
        self._say("QEMU's monitor was asked for the last time")

    def join(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metadata of a batch with what has come since the last call."""
        found = dict(meta)
        with self._lock:
            if "vms" in found:
                self._vms = found["vms"]
            if self._vms is not None and ("vms" in found or self._new_places):
                self._new_places = False
                found["vms"] = [
                    vm | self._places.get(str(vm.get("name", "")), {})
                    for vm in self._vms
                    if isinstance(vm, dict)
                ]
            if self._new_looks:
                self._new_looks = False
                found["qmp"] = {name: dict(said) for name, said in self._looks.items()}
        return found

    def _run(self, source: Source, taken: threading.Event) -> None:
        self._look(source, whole=True)
        taken.set()
        while not self._ending.wait(self._every_s or None):
            self._look(source, whole=False)
        self._look(source, whole=True)

    def _look(self, source: Source, *, whole: bool) -> None:
        name = source.vm.name
        try:
            said, places = source.ask(whole=whole)
        except VtraceError as error:
            said, places = {"missing": str(error)}, {}
        except Exception as error:
            # What answers may make no sense at all.
            said, places = {"missing": f"{type(error).__name__}: {error}"}, {}
        with self._lock:
            if places.get("regions"):
                self._places[name], self._new_places = places, True
        if "missing" in said:
            self._note(name, said["missing"])
            return
        with self._lock:
            self._looks[name] = {"look": said}
            self._new_looks = True

    def _note(self, name: str, reason: str) -> None:
        with self._lock:
            self._looks.setdefault(name, {})["missing"] = clean(reason, 240)
            self._new_looks = True
