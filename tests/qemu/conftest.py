"""What tests with a TCG guest on this machine need."""

import shutil
import time

import pytest

from probes import preflight
from tests.probes.need import need_bpf
from tests.testbed.cache import provide
from tests.testbed.errors import LabError
from tests.testbed.fixtures import unavailable
from tests.testbed.suites import SUITES


@pytest.fixture(scope="package")
def build(pytestconfig):
    """Return kernel and initramfs of a guest; skip where QEMU's functions cannot be probed."""
    need_bpf()
    if preflight.kernel_headers() is None:
        pytest.skip("no kernel headers (Debian: apt install linux-headers-amd64)")
    if not preflight.has_uprobes():
        pytest.skip("this kernel has no uprobes (CONFIG_UPROBES)")
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs qemu-system-x86_64 (Debian: apt install qemu-system-x86)")
    try:
        return provide(SUITES["bookworm"])
    except LabError as error:
        unavailable(error)


def until(condition, seconds=20.0):
    """Wait until something holds; fail if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
