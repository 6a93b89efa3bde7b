"""Live: a host's VMs put names to what the probes see; the attach process sends it here.

The attach process keeps the privilege; this side reads its pipe as any trace file in a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from probes.attach import Attached, Request, spawn
from vtrace.errors import UsageError
from vtrace.inventory import Vm, discover, resolve, to_json
from vtrace.recorder.qemu_names import QemuNames

if TYPE_CHECKING:
    from probes.sampling import Sampler

__all__ = ["HostNames", "attach"]


class HostNames:
    """Names of this host's VMs and devices, for the attach process; looked up again for new VMs."""

    def __init__(self, vm: str | None) -> None:
        self._vms = discover()
        self._looked_for: set[tuple[int, str]] = set()
        self._qemu_names = QemuNames()
        self._only: Vm | None = resolve(self._vms, vm) if vm else None
        self._chosen_of: list[Vm] | None = None
        self._chosen: list[Vm] = []

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids to trace; empty: all."""
        return (self._only.pid,) if self._only else ()

    @property
    def ifindices(self) -> tuple[int, ...]:
        """Interface indices of the taps of the VMs to trace; empty: all."""
        if not self._only:
            return ()
        nets = [device.net for device in self._only.devices if device.net]
        return tuple(net.ifindex for net in nets if net.ifindex)

    @property
    def vms_json(self) -> list[dict[str, Any]]:
        """The inventory, as ``vtrace list --json`` prints it."""
        return to_json([self._only] if self._only else self._vms)

    @property
    def vms(self) -> list[Vm]:
        """The VMs to trace; another list whenever they were looked up again."""
        only = self._only
        if not only:
            return self._vms
        known = self._vms
        if self._chosen_of is not known:
            self._chosen_of = known
            self._chosen = [vm for vm in known if vm.pid == only.pid] or [only]
        return self._chosen

    def samplers(self) -> Sequence[Sampler]:
        """Return what to sample while recording: counters, configuration, VMs."""
        from vtrace.recorder.sampled import samplers_of

        return samplers_of(self)

    def look(self) -> None:
        """Look the VMs up again."""
        self._vms = discover()

    def name_queue(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return the names of a queue that is known by process and interface, or by QOM path."""
        found = self._find(entry)
        if not found and self._look_again((entry["pid"], entry["interface"])):
            found = self._find(entry)
        return found

    def name_thread(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return the VM of a thread, and which of its vCPUs it is."""
        found = self._find_thread(entry)
        if not found and self._look_again((entry["pid"], "")):
            found = self._find_thread(entry)
        return found

    def _look_again(self, key: tuple[int, str]) -> bool:
        # A VM that is not known is looked for once.
        if key in self._looked_for:
            return False
        self._looked_for.add(key)
        self.look()
        return True

    def _find_thread(self, entry: dict[str, Any]) -> dict[str, Any]:
        for vm in self._vms:
            if vm.pid != entry["pid"]:
                continue
            for thread in vm.threads:
                if thread.tid == entry["tid"] and thread.vcpu is not None:
                    return {"vm": vm.name, "vcpu": thread.vcpu}
            return {"vm": vm.name}
        return {}

    def _find(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry.get("backend") == "qemu":
            vms = (vm for vm in self._vms if vm.pid == entry["pid"])
            return next((self._qemu_names.of(vm, entry) for vm in vms), {})
        pid, interface = entry["pid"], entry["interface"]
        for vm in self._vms:
            if pid and vm.pid != pid:
                continue
            for device in vm.devices:
                if device.net and interface and device.net.interface == interface:
                    return {"vm": vm.name, "pid": vm.pid, "device": device.id}
            if pid:
                return {"vm": vm.name}
        return {}


def attach(request: Request, progress: Callable[[str], None]) -> Attached:
    """Start the attach process and return when every probe is attached.

    Raises:
        UsageError: No VM has the name that was asked for.
        VtraceError: Whatever keeps the probes from running.
    """
    if request.vm is not None and not request.vm:
        raise UsageError("--vm needs a name, a pid or a uuid")
    attached = spawn(request, HostNames)
    try:
        attached.wait_ready(progress)
    except BaseException:
        attached.close()
        raise
    return attached
