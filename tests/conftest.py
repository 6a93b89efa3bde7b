"""What holds for all tests: the test host's fixtures, and no skip in silence."""

import os
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

if (ROOT / "tests" / "testbed" / "fixtures.py").exists():
    pytest_plugins = ["tests.testbed.fixtures"]


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why a test was skipped, without the place and the prefix."""
    reason = report.longrepr
    if isinstance(reason, tuple):
        reason = reason[2]
    return str(reason).removeprefix("Skipped: ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    # In CI everything that the test host needs is there, so a test of it that is
    # skipped hides a broken test host.
    report = yield
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and item.get_closest_marker("testhost")
        and in_ci()
    ):
        reason = skip_reason(report)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, which CI forbids: {reason}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter):
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(skip_reason(report) for report in skipped)
    terminalreporter.section("skips")
    if not reasons:
        terminalreporter.line("nothing skipped")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"skipped: {count}  ({reason})")


@pytest.fixture(scope="session")
def root() -> Path:
    """The clone's folder."""
    return ROOT
