"""Real QEMU guests without a kernel, in a network namespace of the test's own."""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

QEMU = "qemu-system-x86_64"
DEADLINE_S = 30


class Netns:
    """A network namespace, held by a process that sleeps in it."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.holder.stdout.readline() != "ready\n":
            _, reason = self.holder.communicate()
            pytest.skip(f"no network namespace: {reason.strip()}")
        self.path = f"/proc/{self.holder.pid}/ns/net"
        self.inode = Path(self.path).stat().st_ino

    def command(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(self, *argv: str) -> None:
        done = subprocess.run(self.command(*argv), capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{' '.join(argv)}: {done.stderr.strip()}")

    def close(self) -> None:
        self.holder.kill()
        self.holder.communicate()


class Guest:
    """A QEMU that runs, and a way to ask it what it made of its command line."""

    def __init__(self, netns: Netns, place: Path, *argv: str, qmp: bool = True) -> None:
        self.socket = place / "qmp"
        extra = ["-qmp", f"unix:{self.socket},server=on,wait=off"] if qmp else []
        # nsenter becomes QEMU: the pid is QEMU's.
        self.process = subprocess.Popen(
            netns.command(QEMU, "-display", "none", *argv, *extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=place,
        )
        self.pid = self.process.pid
        self.stream = None

    def ask(self, command: str, **arguments):
        if self.stream is None:
            self.connect()
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        while True:
            answer = json.loads(self.stream.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LookupError(answer["error"]["desc"])

    def connect(self) -> None:
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                pytest.fail(f"QEMU ended: {self.process.stdout.read()}")
            try:
                self.door = socket.socket(socket.AF_UNIX)
                self.door.connect(os.fspath(self.socket))
            except OSError:
                self.door.close()
                time.sleep(0.05)
            else:
                self.stream = self.door.makefile("rw")
                self.stream.readline()
                self.ask("qmp_capabilities")
                return
        pytest.fail("QEMU does not answer")

    def rings(self) -> dict[str, list[int]]:
        """Return the sizes of all virtqueues by the path of the device."""
        found = {}
        for device in self.ask("x-query-virtio"):
            sizes = found[device["path"]] = []
            try:
                for number in range(1024):
                    queue = self.ask(
                        "x-query-virtio-queue-status", path=device["path"], queue=number
                    )
                    sizes.append(queue["vring-num"])
            except LookupError:
                pass
        return found

    def addresses(self) -> dict[str, str]:
        """Return the address on the root bus of each device that has an id."""
        (bus,) = self.ask("query-pci")
        return {
            device["qdev_id"]: f"0000:00:{device['slot']:02x}.{device['function']}"
            for device in bus["devices"]
            if device["qdev_id"]
        }

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.door.close()
        self.process.kill()
        self.process.communicate()


def need_qemu() -> None:
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not installed")
    if os.geteuid() != 0:
        pytest.skip("taps and network namespaces need root")
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
