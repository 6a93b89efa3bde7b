"""Counters of guests: by a command, and by the real QEMU guest agent on a socket."""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.counters.test_sampler import by_the_kernel, send
from vtrace.cli.guests import add_guest_arguments, guest_sources
from vtrace.counters import agent as agent_module
from vtrace.counters import guest as guest_module
from vtrace.counters.agent import Agent, RefusedError
from vtrace.counters.guest import AgentSource, CommandSource, Guests, objects_of
from vtrace.errors import UsageError, VtraceError


def objects(source) -> dict:
    return dict(objects_of(source.vm, source.texts()))


def values(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.endswith("_ns")}


# By a command


def test_a_command_gives_the_counters_of_where_it_runs(place, udp_socket):
    send(udp_socket(), "127.0.0.1", 7009, 13)
    begin = time.monotonic_ns()
    found = objects(CommandSource("cpx", f"ip netns exec {place.name} sh -c"))
    end = time.monotonic_ns()
    for protocol in ("Udp", "Ip", "Icmp"):
        assert values(found[f"guest/cpx/{protocol.lower()}"]) == by_the_kernel(place, protocol)
    assert found["guest/cpx/udp"]["NoPorts"] == 13
    assert "OutDatagrams" in found["guest/cpx/udp6"]
    assert found["guest/cpx/softnet/0"]["processed"] >= 0
    assert all(begin <= row["lo_ns"] <= row["hi_ns"] <= end for row in found.values())


def test_interfaces_of_a_guest_have_the_names_of_the_hosts(place, tap):
    os.write(tap, b"\xff" * 6 + b"\x52\x54\0\0\0\2" + b"\x88\xb5" + bytes(60))
    found = objects(CommandSource("cpx", f"ip netns exec {place.name} sh -c"))
    (shown,) = json.loads(place.run("ip", "-s", "-j", "link", "show", "tap0"))
    ours = found["guest/cpx/link/tap0"]
    for side in ("rx", "tx"):
        for name in ("packets", "bytes", "errors", "dropped"):
            assert ours[f"{side}_{name}"] == shown["stats64"][side][name]
    assert ours["rx_packets"] == 1
    assert "guest/cpx/link/lo" not in found


def test_sockets_of_a_guest_tell_what_they_dropped(place, udp_socket):
    full = udp_socket()
    full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    full.bind(("127.0.0.1", 7011))
    send(udp_socket(), "127.0.0.1", 7011, 40)
    found = objects(CommandSource("cpx", f"ip netns exec {place.name} sh -c"))
    row = found[f"guest/cpx/socket/udp/{os.fstat(full.fileno()).st_ino}"]
    assert row["local"] == "127.0.0.1:7011"
    assert row["drops"] == by_the_kernel(place, "Udp")["RcvbufErrors"] > 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/nowhere/ssh cpx", r"/nowhere/ssh: No such file"),
        ("sh -c 'echo no route to host >&2; exit 255'", r"ended with 255: no route to host"),
        ("sh -c 'echo hello'", r"the answer is not whole"),
        ("sh -c 'yes'", r"the answer does not end"),
        ("sh -c 'sleep 60'", r"no answer within 0.5 s"),
        ("sh -c 'exec >&- 2>&-; sleep 60'", r"no answer within"),
    ],
)
def test_a_command_that_fails_is_a_sentence(monkeypatch, command, said):
    monkeypatch.setattr(guest_module, "_COMMAND_S", 0.5)
    began = time.monotonic()
    with pytest.raises(VtraceError, match=said):
        CommandSource("cpx", command).texts()
    assert time.monotonic() - began < 5


def test_a_hostile_guest_names_nothing_and_counts_nothing():
    dev = "\n".join(
        [
            "  ../../etc: 1 2 3",
            "eth0: 99999999999999999999 -5 x 7",
            "a b: 1 2",
            *(f"eth{n}: 1 2 3" for n in range(1, 999)),
        ]
    )
    texts = {
        "snmp": (1, 2, "Udp: A B C\nUdp: 1 99999999999999999999999 x\nUdp:\nIp\x1b: 3\n"),
        "snmp6": (1, 2, "Udp6\n\tUdp6InErrors\nUdp6NoPorts 99999999999999999999\n" * 9),
        "dev": (1, 2, dev),
        "softnet_stat": (1, 2, "zz 1 2\n" + "1 2 3\n" * 9999),
        "udp": (1, 2, "sl\n" + " 0: 0100007F:1B59 00:0 07 0:ZZ 0 0 0 0 5 2 0 9\n" * 999),
        "udp6": (1, 2, "sl\n" + " 0: 01:1B59 00:0 07 0:0 0 0 0 0 5 2 0 9\n" * 9),
    }
    found = dict(objects_of("cpx", texts))
    assert found["guest/cpx/udp"] == {"lo_ns": 1, "hi_ns": 2, "A": 1}
    assert "guest/cpx/link/eth0" in found
    assert not any(".." in name or " " in name for name in found)
    assert len(found) < 512
    numbers = [v for row in found.values() for v in row.values() if isinstance(v, int)]
    assert all(0 <= value < 1 << 64 for value in numbers)


# By the guest agent


@pytest.fixture
def agent(tmp_path) -> Iterator[Callable[..., str]]:
    """Yield a function that starts the real agent and returns its socket."""
    if not shutil.which("qemu-ga"):
        pytest.skip("qemu-guest-agent is not installed")
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> str:
            path = str(tmp_path / "agent.sock")
            command = ["qemu-ga", "-m", "unix-listen", "-p", path, "-t", str(tmp_path)]
            process = subprocess.Popen(
                [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            deadline = time.monotonic() + 20
            while not Path(path).exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            return path

        yield start


def own_udp() -> dict[str, int]:
    text = Path("/proc/net/snmp").read_text()
    names, numbers = re.findall("^Udp: (.*)$", text, re.MULTILINE)
    return dict(zip(names.split(), map(int, numbers.split()), strict=True))


FORBID_FILES = "guest-file-open,guest-file-read"
FORBID_ALL = f"{FORBID_FILES},guest-exec"


@pytest.mark.parametrize("options", [(), ("-b", FORBID_FILES)], ids=["files", "commands"])
def test_the_agent_gives_the_counters_of_its_guest(agent, options):
    source = AgentSource("cpx", agent(*options))
    before, found, after = own_udp(), objects(source), own_udp()
    ours = values(found["guest/cpx/udp"])
    assert ours.keys() == before.keys()
    assert all(before[name] <= ours[name] <= after[name] for name in ours)
    assert any(name.startswith("guest/cpx/link/") for name in found)
    assert "guest/cpx/udp6" in found
    # A second talk: nothing of the first is in its way.
    assert objects(source)["guest/cpx/udp"]["OutDatagrams"] >= ours["OutDatagrams"]


def test_an_agent_that_may_nothing_is_a_sentence(agent):
    with pytest.raises(VtraceError, match="the guest's agent refuses: guest-file-open: "):
        AgentSource("cpx", agent("-b", FORBID_ALL)).texts()


def test_what_a_client_before_left_is_passed_over(agent):
    path = agent()
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(path)
        rude.sendall(b'{"execute": "guest-info"}\n{"execute": "guest-ping"')
    with Agent(path) as talk:
        assert talk.ask("guest-ping") == {}
        with pytest.raises(RefusedError, match=r"guest-nonsense: .*not been found"):
            talk.ask("guest-nonsense")
        assert talk.read("/proc/sys/kernel/ostype") == "Linux\n"


def test_a_file_of_many_parts_is_whole(agent, tmp_path):
    data = "".join(f"{n}\n" for n in range(100_000))
    (tmp_path / "large").write_text(data)
    with Agent(agent()) as talk:
        assert talk.read(str(tmp_path / "large")) == data


@pytest.fixture
def impostor(tmp_path) -> Iterator[Callable[[Callable], str]]:
    """Yield a function that answers on a socket as a hostile guest would."""
    with contextlib.ExitStack() as stack:

        def start(answer: Callable[[socket.socket], None]) -> str:
            path = str(tmp_path / "impostor.sock")
            door = stack.enter_context(socket.socket(socket.AF_UNIX))
            door.bind(path)
            door.listen(1)

            def serve() -> None:
                with contextlib.suppress(OSError):
                    link, _ = door.accept()
                    with link:
                        answer(link)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            stack.callback(thread.join, 5)
            stack.callback(door.close)
            return path

        yield start


def synced(link: socket.socket) -> None:
    ask = b""
    while b"\n" not in ask:
        ask += link.recv(4096)
    number = json.loads(ask.lstrip(b"\xff"))["arguments"]["id"]
    link.sendall(b"\xff" + json.dumps({"return": number}).encode() + b"\n")


def endless(link: socket.socket) -> None:
    while True:
        link.sendall(b"x" * 65536)


def endless_behind_sync(link: socket.socket) -> None:
    synced(link)
    endless(link)


def nonsense(link: socket.socket) -> None:
    synced(link)
    for answer in (b"[" * 5000, b"[]", b"7", b'{"return": 7}', b'{"return": {"buf-b64": "!"}}'):
        link.recv(4096)
        link.sendall(answer + b"\n")
    link.recv(4096)


def silent(link: socket.socket) -> None:
    link.recv(4096)
    time.sleep(2)


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (endless, "does not stop talking"),
        (endless_behind_sync, "does not stop talking"),
        (nonsense, "makes no sense"),
        (silent, "did not answer within"),
        (lambda link: None, "closed by the other side|Connection reset|Broken pipe"),
    ],
    ids=["endless", "endless later", "nonsense", "silent", "closing"],
)
def test_a_hostile_agent_is_a_sentence(impostor, monkeypatch, behaviour, said):
    monkeypatch.setattr(agent_module, "_TALK_S", 1.0)
    began = time.monotonic()
    with pytest.raises(VtraceError, match=said):
        AgentSource("cpx", impostor(behaviour)).texts()
    assert time.monotonic() - began < 5


# The threads, and the options


def test_guests_are_asked_at_the_start_and_at_the_end(place, udp_socket):
    guests = Guests([CommandSource("cpx", f"ip netns exec {place.name} sh -c")], every_s=0)
    guests.begin()
    before = guests.take()["counters"]["guest/cpx/udp"]
    assert guests.take() == {}
    send(udp_socket(), "127.0.0.1", 7009, 17)
    guests.finish()
    after = guests.take()["counters"]["guest/cpx/udp"]
    assert after["NoPorts"] - before["NoPorts"] == 17
    assert before["hi_ns"] < after["lo_ns"]


def test_a_guest_that_does_not_answer_is_said_once_and_the_other_goes_on(place):
    works = CommandSource("works", f"ip netns exec {place.name} sh -c")
    broken = CommandSource("broken", "sh -c 'printf \"\\033[31mno\" >&2; exit 1'")
    guests = Guests([broken, works], every_s=0.05)
    guests.begin()
    time.sleep(0.5)
    guests.finish()
    section = guests.take()["counters"]
    assert "guest/works/udp" in section
    assert section["missing"] == [
        "counters of guest broken: sh ended with 1: \\x1b[31mno",
    ]


def test_a_guest_that_stands_still_at_the_end_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(guest_module, "_LAST_S", 0.3)
    mark = tmp_path / "pid"
    source = CommandSource("cpx", f"sh -c 'echo $$ >> {mark}; sleep 60'")
    guests = Guests([source], every_s=0)
    monkeypatch.setattr(guest_module, "_FIRST_S", 0.3)
    began = time.monotonic()
    guests.begin()
    guests.finish()
    assert time.monotonic() - began < 4
    assert guests.take()["counters"]["missing"] == [
        "counters of guest cpx: it did not answer in time"
    ]
    deadline = time.monotonic() + 10
    (pid,) = map(int, mark.read_text().split())
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()
    time.sleep(0.2)
    assert mark.read_text() == f"{pid}\n"


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vm")
    add_guest_arguments(parser)
    return parser.parse_args(words)


def test_options_name_a_vm_or_mean_the_only_one(monkeypatch):
    from vtrace import inventory
    from vtrace.inventory import Vm

    vms = [Vm(name="cpx", pid=100), Vm(name="other", pid=200)]
    monkeypatch.setattr(inventory, "discover", lambda: vms)
    assert guest_sources(parsed()) == []
    named = guest_sources(parsed("--guest-cmd", "cpx=ssh a", "--guest-agent", "200=/run/a.sock"))
    assert named == [CommandSource("cpx", "ssh a"), AgentSource("other", "/run/a.sock")]
    (alone,) = guest_sources(parsed("--vm", "other", "--guest-cmd", "ssh -o Port=22 other"))
    assert alone == CommandSource("other", "ssh -o Port=22 other")
    for words, said in (
        (["--guest-cmd", "ssh cpx"], "there are 2 VMs"),
        (["--guest-cmd", "nobody=ssh x"], "no VM 'nobody'"),
        (["--guest-cmd", "cpx="], "needs a command"),
        (["--guest-cmd", "cpx=ssh 'x"], "No closing quotation"),
        (["--guest-cmd", "cpx=ssh x", "--guest-agent", "cpx=/x"], "in two ways"),
    ):
        with pytest.raises(UsageError, match=said):
            guest_sources(parsed(*words))
    vms[1:] = []
    assert guest_sources(parsed("--guest-agent", "/run/a.sock")) == [
        AgentSource("cpx", "/run/a.sock")
    ]
    vms.clear()
    with pytest.raises(UsageError, match="there is no VM"):
        guest_sources(parsed("--guest-cmd", "ssh cpx"))
