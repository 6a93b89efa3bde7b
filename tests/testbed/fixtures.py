"""pytest fixtures of the test host; tests/conftest.py names this as a plugin.

    def test_it(lab, guest):
        lab.run("python3 -m vtrace doctor")
        assert udp(lab, guest, 1009).lost == 0

Every test that asks for `lab` runs once per suite, all tests of one suite
together, on one boot.
"""

import os
from collections.abc import Callable, Generator, Iterator

import pytest

from tests.testbed.errors import LabError
from tests.testbed.guest import Guest
from tests.testbed.host import Host
from tests.testbed.suites import SUITES

_REASON_LENGTH = 200
_SHARED = "shared"
GONE = "testhost/gone"
"""Key in pytest's cache: the tests that lost their host."""

_LATER = pytest.StashKey[Host]()
"""The host that a session has booted."""

_ANSWER_S = 20.0
"""A guest that says nothing for so long has hung."""

_TIMEOUT = 900
"""Seconds for one test: the first may have to build the image and boot twice."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --suite."""
    parser.addoption(
        "--suite",
        choices=sorted(SUITES),
        help="run the tests of the test host on this Debian suite only",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, also where the project's settings are not read."""
    config.addinivalue_line("markers", "testhost: runs in the emulated test host")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Forget the hosts that were lost last time."""
    session.config.cache.set(GONE, [])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that boot a host, and leave out unwanted suites."""
    only = config.getoption("--suite")
    unwanted = []
    for item in items:
        if "lab" not in getattr(item, "fixturenames", ()):
            continue
        item.add_marker("testhost")
        timed = config.pluginmanager.hasplugin("timeout")
        if timed and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT))
        call = getattr(item, "callspec", None)
        if only and call is not None and call.params.get("lab") != only:
            unwanted.append(item)
    leave_out(config, items, unwanted)


def leave_out(config: pytest.Config, items: list[pytest.Item], unwanted: list[pytest.Item]) -> None:
    """Take tests out of those that were collected; pytest counts them as deselected."""
    if unwanted:
        config.hook.pytest_deselected(items=unwanted)
        items[:] = [item for item in items if item not in unwanted]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the consoles of a host in which a test failed, and say where.

    An emulated machine hangs or dies now and then, and takes the test along that it was in: that is
    noted for `make test`, which then runs once more what failed.
    """
    report = yield
    host = getattr(item, "funcargs", {}).get("lab")
    if not report.failed or not isinstance(host, Host):
        return report
    host.keep_logs = True
    # What the test bed could not do it may be able to do next time; what is wrong stays wrong.
    unable = call.excinfo is not None and isinstance(call.excinfo.value, LabError)
    if unable or host.lives > 1 or _silent(host):
        item.config.cache.set(GONE, [*item.config.cache.get(GONE, []), item.nodeid])
    kept = f"{host.console}\n(the folder stays; it also holds the share)"
    report.sections.append((f"console of the host {host.name}", kept))
    return report


def _silent(host: Host) -> bool:
    """Tell whether the host or the guest that tests share does not answer."""
    try:
        host.check()
        if shared := host.guests.get(_SHARED):
            shared.run("true", timeout=_ANSWER_S)
    except LabError:
        return True
    return False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Boot the host once more if it hangs or died: the tests behind are not to blame."""
    host = item.session.stash.get(_LATER, None)
    if host is None or "lab" not in getattr(item, "fixturenames", ()):
        return
    try:
        host.check()
    except LabError:
        host.revive()


def unavailable(error: LabError) -> None:
    """End a test for which there is no test host: a failure in CI, else a skip."""
    reason = f"no test host: {' '.join(str(error).split())[:_REASON_LENGTH]}"
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(f"no test host: {error}", pytrace=False)
    pytest.skip(reason)


def boot(suite: str, say: Callable[[str], None], *, with_guest: bool) -> Host:
    """Boot a host, and the guest that tests share if they do.

    KVM is first used when the first guest starts. Should the host hang then,
    no test has seen it yet, and another one is booted, once.
    """
    for attempt in range(2):
        host = Host.boot(suite, say=say)
        try:
            host.sync_source()
            if with_guest:
                host.guest(_SHARED)
        except LabError as error:
            host.keep_logs = True
            host.close()
            if attempt:
                raise
            say(f"{suite}: {error}; console: {host.console}; booting once more")
        except BaseException:
            host.close()
            raise
        else:
            break
    return host


@pytest.fixture(scope="session", params=list(SUITES))
def lab(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[Host]:
    """Yield a booted host of each suite, with the project's source in it."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{text}", flush=True)

    wanted = any("guest" in getattr(item, "fixturenames", ()) for item in request.session.items)
    try:
        host = boot(request.param, say, with_guest=wanted)
    except LabError as error:
        unavailable(error)
        return
    with host:
        request.session.stash[_LATER] = host
        yield host
        del request.session.stash[_LATER]
        if host.keep_logs:
            say(f"{host.name}: consoles and share are kept in {host.folder}")


def shared_guest(lab: Host) -> Guest:
    """Return the guest that tests share; another one where it has hung."""
    shared = lab.guests.get(_SHARED)
    if shared is not None:
        try:
            shared.run("true", timeout=_ANSWER_S)
        except LabError:
            shared.kill()
            shared = None
    return shared or lab.guest(_SHARED)


@pytest.fixture
def guest(lab: Host) -> Guest:
    """Return a guest with one vhost-net device.

    All tests share it: leave it as it was. A test that freezes, floods or kills
    a guest boots its own with `lab.guest`.
    """
    return shared_guest(lab)
