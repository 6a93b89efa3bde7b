"""tools/setup, over an apt, a dpkg and a Python that only say what was asked of them."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534

DPKG_QUERY = """#!/bin/sh
cat "$FAKE/installed"
"""

APT_CACHE = """#!/bin/sh
echo "$2:"
if grep -qx "$2" "$FAKE/release"; then
    echo "  Candidate: 1.0"
else
    echo "  Candidate: (none)"
fi
"""

APT_GET = """#!/bin/sh
echo "apt-get $*" >>"$FAKE/calls"
case "$*" in *install*)
    for name in "$@"; do echo "installed $name" >>"$FAKE/installed"; done
esac
"""

# As /usr/bin/python3 and, once "venv" was called, as the Python of .venv.
PYTHON = """#!/bin/sh
case "$*" in
    "-VV") echo "Python 3.11.0 (fake)" ;;
    "-m venv"*)
        echo "python $*" >>"$FAKE/calls"
        rm -rf .venv
        mkdir -p .venv/bin
        cp "$0" .venv/bin/python ;;
    "-m pip"*) echo "pip $*" >>"$FAKE/calls"; ! test -e "$FAKE/pip-fails" ;;
esac
"""

RELEASE = ["python3-venv", "python3-bpfcc", "libpcap0.8t64", "linux-headers-amd64", "gcc"]


class Clone:
    """A folder with the parts of a clone that set-up reads, and a machine around it."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder / "clone"
        self.fake = folder / "fake"
        (self.folder / "tools").mkdir(parents=True)
        for name in ("tools/setup", "tools/constraints.txt", "pyproject.toml"):
            shutil.copy(root / name, self.folder / name)
        self.packages("[run]\npython3-venv\n")
        (self.fake / "bin").mkdir(parents=True)
        for name, text in {
            "dpkg-query": DPKG_QUERY,
            "apt-cache": APT_CACHE,
            "apt-get": APT_GET,
            "python": PYTHON,
        }.items():
            script = self.fake / "bin" / name
            script.write_text(text)
            script.chmod(0o755)
        self.installed("python3-venv")
        (self.fake / "release").write_text("\n".join(RELEASE) + "\n")
        (self.fake / "calls").write_text("")

    def packages(self, text: str) -> None:
        (self.folder / "tools" / "debian-packages.txt").write_text(text)

    def installed(self, *names: str) -> None:
        lines = "".join(f"installed {name}\n" for name in names)
        (self.fake / "installed").write_text(lines)

    def calls(self) -> list[str]:
        return (self.fake / "calls").read_text().splitlines()

    def setup(self, *sections: str, **options) -> subprocess.CompletedProcess[str]:
        fake = self.fake
        environment = {
            "PATH": f"{fake / 'bin'}:{os.environ['PATH']}",
            "PYTHON": str(fake / "bin" / "python"),
            "FAKE": str(fake),
        }
        return subprocess.run(
            [self.folder / "tools" / "setup", *sections],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **options,
        )


@pytest.fixture
def clone(root) -> Iterator[Clone]:
    # Not under tmp_path, which only its owner may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Clone(root, Path(folder))


@pytest.fixture
def anyone(clone) -> dict[str, int]:
    """Options that run set-up as someone other than root."""
    if os.geteuid() != 0:
        return {}
    for path in [clone.folder.parent, *clone.folder.parent.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root installs Debian packages")


def test_second_setup_has_nothing_to_do_or_say(clone):
    first = clone.setup("run")
    assert first.returncode == 0, first.stderr
    before = clone.calls()
    assert [call.split()[0] for call in before] == ["python", "pip"]

    second = clone.setup("run")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert clone.calls() == before


def test_packages_of_the_tests_serve_the_demo_too(clone):
    clone.setup("run", "check")
    before = clone.calls()
    assert before[-1].endswith(".[test]")
    clone.setup("run")
    assert clone.calls() == before


def test_changed_dependencies_are_installed(clone):
    clone.setup("run")
    with (clone.folder / "pyproject.toml").open("a") as out:
        out.write("# changed\n")
    clone.setup("run")
    assert [call.split()[0] for call in clone.calls()] == ["python", "pip", "pip"]


def test_moved_clone_gets_a_new_venv(clone):
    clone.setup("run")
    clone.folder = clone.folder.rename(clone.folder.with_name("elsewhere"))
    clone.setup("run")
    assert [call.split()[0] for call in clone.calls()] == ["python", "pip"] * 2


def test_failing_pip_is_told_and_tried_again_next_time(clone):
    (clone.fake / "pip-fails").touch()
    failed = clone.setup("run")
    assert failed.returncode != 0
    assert "pip could not install vtrace" in failed.stderr

    (clone.fake / "pip-fails").unlink()
    assert clone.setup("run").returncode == 0


def test_anyone_gets_the_line_to_type(clone, anyone):
    clone.packages("[run]\npython3-venv\n\n[record]\npython3-bpfcc\nlibpcap0.8 | libpcap0.8t64\n")
    done = clone.setup("run", "record", **anyone)
    assert done.returncode == 0, done.stderr
    line = "sudo apt-get install --no-install-recommends python3-bpfcc libpcap0.8t64\n"
    assert line in done.stderr
    assert "recording will not work without python3-bpfcc libpcap0.8t64" in done.stderr
    assert not any(call.startswith("apt-get") for call in clone.calls())


def test_root_installs_what_is_missing(clone, as_root):
    clone.packages("[record]\n# bcc\npython3-bpfcc\n[test]\ngcc\n")
    done = clone.setup("run", "record", "test")
    assert done.returncode == 0, done.stderr
    (apt,) = (call for call in clone.calls() if call.startswith("apt-get"))
    assert apt.endswith("install -y --no-install-recommends python3-bpfcc gcc")


def test_package_that_the_release_lacks_is_said_and_left_out(clone, as_root):
    clone.packages("[test]\nno-such-package\ngcc\n")
    done = clone.setup("run", "test")
    assert done.returncode == 0, done.stderr
    assert "no Debian package here: no-such-package" in done.stderr
    update, apt = (call for call in clone.calls() if call.startswith("apt-get"))
    assert update.endswith("update")
    assert apt.endswith("install -y --no-install-recommends gcc")


def test_demo_says_that_recording_lacks_something(clone):
    clone.packages("[record]\npython3-bpfcc\n")
    done = clone.setup("run")
    assert done.returncode == 0
    assert "recording will not work without python3-bpfcc; all else does" in done.stderr


def test_missing_python_is_told(clone):
    (clone.fake / "bin" / "python").unlink()
    done = clone.setup("run")
    assert done.returncode == 1
    assert "install python3-venv" in done.stderr
    assert "Traceback" not in done.stderr


def test_package_list_has_each_package_once(root):
    lines = (root / "tools" / "debian-packages.txt").read_text().splitlines()
    names = [line for line in lines if line and not line.startswith(("#", "["))]
    assert len(names) == len(set(names))
    sections = [line for line in lines if line.startswith("[")]
    assert sections == ["[run]", "[record]", "[test]"]
    assert names[0] == "python3-venv"
