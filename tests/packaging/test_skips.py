"""What tests/conftest.py does with skips: counts them, and fails some in CI."""

import os
import shutil
import subprocess
import sys

import pytest

TESTS = """
import pytest

@pytest.mark.parametrize("n", range(3))
def test_without_root(n):
    pytest.skip("no root")

@pytest.mark.testhost
def test_of_the_test_host():
    pytest.skip("no qemu")

def test_that_runs():
    pass

@pytest.mark.testhost
@pytest.mark.xfail
def test_that_fails_as_expected():
    assert False
"""


@pytest.fixture
def pytest_here(root, tmp_path):
    """Return a function that runs pytest on some tests, beside our conftest.py."""
    tests = tmp_path / "tests"
    tests.mkdir()
    shutil.copy(root / "tests" / "conftest.py", tests)
    (tests / "__init__.py").touch()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = testhost\n")

    def run(text: str, **environment: str) -> list[str]:
        (tests / "test_some.py").write_text(text)
        clean = {k: v for k, v in os.environ.items() if k != "CI"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
            cwd=tmp_path,
            env=clean | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return [line for line in done.stdout.splitlines() if line]

    return run


def test_skips_are_counted_by_reason(pytest_here):
    lines = pytest_here(TESTS)
    assert lines[-3:-1] == ["skipped: 3  (no root)", "skipped: 1  (no qemu)"]
    assert "1 passed, 4 skipped, 1 xfailed" in lines[-1]


def test_skipped_test_of_the_test_host_fails_in_ci(pytest_here):
    lines = pytest_here(TESTS, CI="true")
    assert any("skipped, which CI forbids: no qemu" in line for line in lines)
    assert "1 failed, 1 passed, 3 skipped, 1 xfailed" in lines[-1]


def test_no_skip_is_said_too(pytest_here):
    lines = pytest_here("def test_that_runs(): pass")
    assert lines[-2] == "nothing skipped"
