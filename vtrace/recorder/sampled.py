"""What is sampled beside the events of a live recording, in the attach process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from vtrace.counters import Sampler
from vtrace.inventory import to_json
from vtrace.inventory.network import snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from probes.sampling import Sampler as Called
    from vtrace.inventory import Vm
    from vtrace.recorder.live import HostNames

__all__ = ["samplers_of"]

_LOOK_S: Final = 30.0
"""How often the VMs and the host's configuration are looked at again at most."""
_PAUSE: Final = 100
"""... and not before so many times of what that took: 1 % of a CPU."""
_PAUSE_SOON: Final = 10
"""The same where an interface has come."""


def samplers_of(host: HostNames) -> Sequence[Called]:
    """Return the samplers: counters first and alone at the end, since they are held to the events.

    Another section is another function here.
    """
    configuration = Configuration(host)
    return [Counters(host, configuration), configuration]


class Counters:
    """Section ``counters``."""

    def __init__(self, host: HostNames, configuration: Configuration) -> None:
        self._sampler = Sampler(lambda: host.vms)
        self._configuration = configuration
        self._links: set[str] = set()
        self._said = 0

    def __call__(self, whole: bool) -> dict[str, Any]:
        """Return the objects that have changed."""
        section: dict[str, Any] = self._sampler.sample(all_=whole)
        links = {name for name in section if name.startswith("link/")}
        if links - self._links:
            self._configuration.look_soon()
        self._links |= links
        if whole or len(self._sampler.missing) > self._said:
            self._said = len(self._sampler.missing)
            section["missing"] = list(self._sampler.missing)
        return {"counters": section} if section else {}

    def close(self) -> None:
        """Close what is open."""
        self._sampler.close()


class Configuration:
    """Sections ``config`` and ``vms``: now and then, and when VMs have come or gone."""

    def __init__(self, host: HostNames) -> None:
        self._host = host
        self._due = self._earliest = 0.0
        self._vms: list[Vm] = []
        self._seen: dict[str, Any] = {}

    def look_soon(self) -> None:
        """Look again as soon as it may cost that much: an interface has come."""
        self._due = min(self._due, self._earliest)

    def __call__(self, whole: bool) -> dict[str, Any]:
        """Return the sections that have changed; not at the end, where nobody waits for them."""
        if whole and self._seen:
            return {}
        now = time.monotonic()
        if now < self._due and self._host.vms is self._vms:
            return {}
        if self._seen and now >= self._due:
            self._host.look()
        self._vms = self._host.vms
        sections = {"config": config_of(self._vms), "vms": to_json(self._vms)}
        end = time.monotonic()
        self._earliest = end + _PAUSE_SOON * (end - now)
        self._due = end + max(_LOOK_S, _PAUSE * (end - now))
        changed = {name: s for name, s in sections.items() if self._seen.get(name) != s}
        self._seen = sections
        return changed


def config_of(vms: Sequence[Vm]) -> dict[str, Any]:
    """Return the configuration; where it cannot be read, the reason."""
    try:
        return snapshot(vms)
    except Exception as error:
        # Another one's files and devices: recording goes on whatever they say.
        return {"missing": [f"the configuration: {type(error).__name__}: {error}"]}
