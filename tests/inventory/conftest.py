import pytest

from tests.inventory.fakehost import QEMU, FakeHost
from vtrace.inventory import discover


@pytest.fixture
def host(tmp_path):
    return FakeHost(tmp_path)


@pytest.fixture
def vm_of(host):
    """Return a function: a command line (and open files) -> the VM that is found."""

    def make(*argv, **options):
        host.process(4711, [QEMU, *argv], **options)
        (vm,) = discover(host.proc, host.sys)
        return vm

    return make
