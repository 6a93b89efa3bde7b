"""Packages of a Debian suite, from the mirror that this machine's apt uses."""

import os
import re
from pathlib import Path

from tests.testbed.errors import LabError, MissingPiece
from tests.testbed.suites import PACKAGES, Suite
from tests.testbed.system import call, require

__all__ = ["package_versions", "sources"]

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def _own_codename() -> str:
    """Return the code name of the Debian release that runs here."""
    text = Path("/etc/os-release").read_text()
    found = re.search(r'^VERSION_CODENAME="?(\w+)"?$', text, re.MULTILINE)
    if not found:
        raise MissingPiece("/etc/os-release has no VERSION_CODENAME: not Debian?")
    return found[1]


def sources(suite: Suite) -> list[str]:
    """Return apt source lines of a suite, on the sites that this machine uses.

    VTRACE_TESTBED_MIRROR names another site; then only the suite itself is
    taken from it, without its updates.
    """
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    mirror = os.environ.get("VTRACE_TESTBED_MIRROR")
    if mirror:
        return [f"deb {signed}{mirror} {suite.name} main"]
    require("apt-get")
    own = _own_codename()
    targets = call(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(CREATED_BY)|$(SITE)|$(RELEASE)|$(COMPONENT)",
        ]
    )
    lines = []
    for target in targets.splitlines():
        kind, site, release, component = target.split("|")
        ours = re.fullmatch(rf"{own}(-updates|-security)?", release)
        if kind == "Packages" and component == "main" and ours:
            there = suite.name + (ours[1] or "")
            lines.append(f"deb {signed}{site} {there} main")
    if not lines:
        raise MissingPiece(
            f"apt here has no Debian source for {own}; "
            "name one with VTRACE_TESTBED_MIRROR"
        )
    return sorted(set(lines))


def package_versions(suite: Suite, folder: Path) -> list[str]:
    """Return "name version" of all that the image of a suite would hold today.

    Asks the mirror, through an apt configuration of its own in the folder;
    the packages of this machine are not touched.

    Raises:
        LabError: The mirror does not answer, or lacks a package.
    """
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "sources.list").write_text("\n".join(sources(suite)) + "\n")
    options = {
        "APT::Sandbox::User": "",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": folder / "state",
        "Dir::State::status": "/dev/null",
    }
    apt = ["apt-get", *(f"-o{key}={value}" for key, value in options.items())]
    call([*apt, "update", "-qq", "--error-on=any"], timeout=120)
    plan = call(
        [
            *apt,
            "install",
            "--simulate",
            "--no-install-recommends",
            *PACKAGES,
            *suite.extra_packages,
        ]
    )
    versions = sorted(
        f"{name} {version}"
        for name, version in re.findall(r"^Inst (\S+) \((\S+)", plan, re.MULTILINE)
    )
    if not versions:
        raise LabError(f"apt plans to install nothing for {suite.name}")
    return versions
