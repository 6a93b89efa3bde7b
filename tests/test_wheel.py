"""The built wheel, used where the sources are not."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = {"parsers", "probes", "vtrace"}


def run(*command: str | Path, **options) -> str:
    """Run a command that is to succeed, and return its standard output."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", out]
    run(sys.executable, *build, root)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def names(wheel) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the wheel in it; what it depends on stays where it was."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    run(*pip, "--quiet", "--no-deps", "--no-index", "--target", target, wheel)
    return target


@pytest.fixture
def vtrace(installed, tmp_path):
    """Return a function that runs the installed command, away from the sources."""
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def call(*arguments: str | Path) -> str:
        command = installed / "bin" / "vtrace"
        return run(command, *arguments, cwd=tmp_path, env=environment)

    return call


def test_wheel_holds_the_three_packages_and_no_more(names):
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES


def test_wheel_holds_every_source(names, root):
    kinds = {".py", ".c", ".h", ".lark", ".json", ".typed"}
    sources = {
        str(path.relative_to(root))
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if path.suffix in kinds or path.name == "py.typed"
    }
    assert sources - set(names) == set()
    assert any(name.endswith(".bpf.c") for name in names)
    assert "probes/include/vtrace_wire.h" in names


def test_wheel_holds_the_licence(names):
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_wheel_does_not_ask_pypi_for_bcc(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        metadata = archive.read(name).decode()
    assert "Requires-Dist: numpy" in metadata
    assert "Requires-Dist: bcc" not in metadata


def test_check_wheel_contents(wheel, root):
    run(sys.executable, "-m", "check_wheel_contents", wheel, cwd=root)


def test_installed_packages_are_those_of_the_wheel(installed, tmp_path):
    where = run(
        sys.executable,
        "-P",
        "-c",
        "import parsers, probes, vtrace\n"
        "for package in (parsers, probes, vtrace): print(package.__file__)",
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )
    assert all(Path(line).is_relative_to(installed) for line in where.splitlines())


def test_help_of_the_installed_command(vtrace):
    assert "report" in vtrace("--help")


def test_report_of_the_installed_command(vtrace, root):
    assert vtrace("report", root / "examples" / "traces" / "quiet.vtrace").strip()
