"""What the kernel counts anyway: interfaces, qdiscs, protocols, sockets, rules, threads; sampled.

A sample is a dict of objects, as the section ``counters`` of a recording has it: by name
(``link/tap0``, ``snmp/udp``), each with its counters by the kernel's names and two times of
CLOCK_MONOTONIC between which it was read. What could not be read is not there.
"""

from vtrace.counters.sampler import Sampler

__all__ = ["Sampler"]
