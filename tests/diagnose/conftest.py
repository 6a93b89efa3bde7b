"""One recording per kernel with every case in it; and one of a guest that is asked for its own."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.diagnose.plan import play_all, played_on
from tests.diagnose.stage import Case, Stage
from tests.host.conftest import start_recording, stop_recording
from tests.testbed import Host
from tests.testbed.fixtures import leave_out


@dataclass
class Played:
    """A recording and the cases in it."""

    path: Path
    cases: dict[str, Case]
    failures: dict[str, Exception]
    """What went wrong while a case was played: its truth did not add up, a guest died."""

    def case(self, name: str) -> Case:
        """Return a case, or raise why there is none."""
        if name in self.failures:
            raise self.failures[name]
        return self.cases[name]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out cases that are the same on both kernels: they run on the first."""
    unwanted = []
    for item in items:
        call = getattr(item, "callspec", None)
        if call is None or "stage" not in getattr(item, "fixturenames", ()):
            continue
        suite = call.params.get("lab")
        if suite != "bookworm" and call.params.get("name") not in played_on(suite)[0]:
            unwanted.append(item)
    leave_out(config, items, unwanted)


@pytest.fixture(scope="package")
def stage(lab: Host, pytestconfig: pytest.Config) -> Iterator[Stage]:
    """Set up the guests of all cases, once per kernel; counts are printed in any case."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(text: object) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{lab.name}: {text}", end="", flush=True)

    seed = random.randrange(1 << 30)
    say(f"losses are drawn with seed {seed}")
    made = Stage(lab, seed, played_on(lab.name)[1])
    made.say = say
    made.set_up()
    yield made
    made.tear_down()


@pytest.fixture(scope="package")
def played(stage: Stage) -> Played:
    """Provoke every case under one recorder."""
    host = stage.host
    stage.set_up()
    job, _ = start_recording(host, name="cases")
    failures: dict[str, Exception] = {}
    play_all(stage, played_on(host.name)[0], failures.__setitem__)
    stop_recording(host, job)
    return Played(host.share / "cases.vtrace", stage.cases, failures)
