"""What can run here, and what to install: on this machine, and on machines made up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from probes import preflight
from probes.btf import MissingTypeError
from probes.manifest import PROGRAMS, Point, Program
from vtrace.errors import ExitCode, UnsupportedError

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
needs_btf = pytest.mark.skipif(
    not Path("/sys/kernel/btf/vmlinux").exists(), reason="this kernel has no BTF"
)


def run(code, *, path=(), nobody=False):
    """Run code in a fresh interpreter, with folders before all others on its path."""
    lines = [f"import sys; sys.path[:0] = {[*map(str, path), str(ROOT)]!r}"]
    if nobody:
        # Loaded before: nobody may not be able to read this clone.
        lines.append("import probes.loader, probes.preflight, vtrace.errors")
        lines.append(f"import os; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})")
    done = subprocess.run(
        [sys.executable, "-P", "-c", "\n".join([*lines, code])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def need_root():
    if os.geteuid() != 0:
        pytest.skip("takes root to become nobody")


# Folder of a fake root: what preflight looks up from / is looked up there.


@pytest.fixture
def fake_root(tmp_path, monkeypatch):
    def inside(*parts):
        path = Path(*parts)
        return tmp_path / path.relative_to("/") if path.is_absolute() else path

    monkeypatch.setattr(preflight, "Path", inside)
    monkeypatch.setattr(preflight, "_TRACEFS", tuple(map(inside, preflight._TRACEFS)))
    return tmp_path


def mkdirs(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)


class FakeSymbols:
    def __init__(self, names):
        self.names = names

    def resolve(self, function):
        return function if function in self.names else None

    def address(self, name):
        return self.names.get(name)


class FakeBtf:
    def __init__(self, missing=()):
        self.missing = missing

    def offset(self, module, path):
        if path in self.missing:
            raise MissingTypeError(f"BTF of {module}: no {path}")
        return 8

    def size(self, module, struct):
        return 64


def fake_kernel(names=None, *, missing=(), kprobes=True, uprobes=True, tracefs=None):
    kernel = object.__new__(preflight.Kernel)
    if names is None:
        names = {name: 0xFFFFFFFF81000000 for program in PROGRAMS for name in program.symbols}
        names |= {f: 1 for p in PROGRAMS for q in p.points for f in q.functions}
    kernel.symbols, kernel.btf = FakeSymbols(names), FakeBtf(missing)
    kernel.has_kprobes, kernel.has_uprobes, kernel.tracefs = kprobes, uprobes, tracefs
    return kernel


@pytest.fixture
def tracefs(tmp_path):
    """Return a tracefs with every tracepoint of the manifest."""
    folder = tmp_path / "tracing"
    for program in PROGRAMS:
        for point in program.points:
            if point.tracepoint:
                event = folder / "events" / point.functions[0].replace(":", "/")
                event.mkdir(parents=True, exist_ok=True)
                (event / "id").write_text("1\n")
    return folder


def states(kernel):
    return {state.program.name: state for state in preflight.programs(kernel)}


# This machine.


def test_the_doctor_says_what_is_true_here():
    found = {check.name: check for check in preflight.checks()}
    assert list(found) == [
        *("privilege", "bcc", "kernel headers", "BTF"),
        *("kprobes", "uprobes", "tracefs"),
    ]
    uprobes = Path("/sys/bus/event_source/devices/uprobe").exists()
    assert found["uprobes"].ok == (uprobes and found["privilege"].ok)
    assert found["BTF"].ok == Path("/sys/kernel/btf/vmlinux").exists()
    assert found["kprobes"].ok == Path("/sys/bus/event_source/devices/kprobe").exists()
    assert found["bcc"].ok == (preflight.bcc_problem() is None)
    assert found["kernel headers"].ok == (preflight.kernel_headers() is not None)
    for check in found.values():
        assert check.detail
        assert not (check.ok and check.remedy)
        assert check.ok or check.remedy or check.name == "kprobes"


@needs_btf
def test_programs_here_are_ready_or_say_why():
    kernel = preflight.Kernel()
    found = preflight.programs(kernel)
    assert [state.program for state in found] == list(PROGRAMS)
    for state in found:
        assert state.ready == (not state.reason)
        for point in state.points:
            assert point.ready == (not point.reason)
        if state.ready:
            required = set(state.program.offsets)
            required |= {f"SYM_{name}" for name in state.program.symbols}
            assert required <= set(state.macros)
            assert all(p.ready or p.point.optional for p in state.points)


@needs_btf
def test_facts_of_this_kernel():
    kernel = preflight.Kernel()
    reasons = kernel.drop_reasons()
    if reasons:
        assert "NOT_SPECIFIED" in reasons.values()
        assert not any(name.startswith("SKB_DROP_REASON_") for name in reasons.values())
        # A name that says SKB itself keeps it: SKB_DROP_REASON_SKB_CSUM.
        assert "SKB_CSUM" in reasons.values()
    private, size = kernel.net_device_private(), kernel.btf.size("vmlinux", "net_device")
    assert private % 32 == 0
    assert private <= (size + 31) // 32 * 32
    if kernel.btf.has_function("vhost", "vhost_add_used_and_signal_n"):
        assert kernel.used_count_argument() in (4, 5)


@needs_btf
def test_anybody_may_ask_the_doctor():
    # /sys/kernel/tracing may not be looked at by anybody but root.
    need_root()
    said = run(
        "from probes import preflight\n"
        "checks = {c.name: c for c in preflight.checks()}\n"
        "print(checks['privilege'].ok, checks['privilege'].detail, checks['tracefs'].ok)\n"
        "print(checks['tracefs'].remedy, '|', checks['privilege'].remedy)\n"
        "states = preflight.programs(preflight.Kernel())\n"
        "ready = [s.program.name for s in states if s.ready]\n"
        "print(len(states), *(set(ready) - {'qemu_virtio'}))\n",
        nobody=True,
    )
    assert said.splitlines() == [
        "False lacks CAP_BPF, CAP_PERFMON, CAP_SYSLOG False",
        "mount -t tracefs tracefs /sys/kernel/tracing | run as root (sudo vtrace record ...)",
        f"{len(PROGRAMS)}",
    ]


# Privilege.


def test_nobody_lacks_capabilities():
    need_root()
    said = run(
        "from probes import preflight\n"
        "from vtrace.errors import PrivilegeError\n"
        "try:\n"
        "    preflight.require_privilege()\n"
        "except PrivilegeError as error:\n"
        "    print(int(error.exit_code), error)\n",
        nobody=True,
    )
    assert said.strip() == (
        f"{int(ExitCode.PRIVILEGE)} recording needs CAP_BPF, CAP_PERFMON, CAP_SYSLOG: run as root "
        "(sudo vtrace ...); files can be read without privilege"
    )


def test_loading_asks_for_privilege_first():
    need_root()
    said = run(
        "from probes.loader import Options, load\n"
        "from vtrace.errors import PrivilegeError\n"
        "try:\n"
        "    load(Options())\n"
        "except PrivilegeError as error:\n"
        "    print('recording needs' in str(error), 'bcc' in sys.modules)\n",
        nobody=True,
    )
    assert said.strip() == "True False"


@pytest.mark.parametrize(
    ("bits", "lacking"),
    [
        ([], ["CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG"]),
        ([21], []),
        ([34, 38, 39], []),
        ([39, 38], ["CAP_SYSLOG"]),
        ([12, 34], ["CAP_BPF", "CAP_PERFMON"]),
        (range(41), []),
    ],
)
def test_capabilities(fake_root, bits, lacking):
    mkdirs(fake_root, "proc/self")
    value = sum(1 << bit for bit in bits)
    text = f"Name:\tx\nCapInh:\t0\nCapPrm:\t0\nCapEff:\t{value:016x}\nCapBnd:\tffff\n"
    (fake_root / "proc/self/status").write_text(text)
    assert preflight.missing_capabilities() == lacking


# bcc.

PROBLEM = "from probes.preflight import bcc_problem; print(bcc_problem(), 'bcc' in sys.modules)"


def another(folder, text="", *, package=True):
    """Write PyPI's bcc, or something like it."""
    place = folder / "bcc" / "__init__.py" if package else folder / "bcc.py"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return place


@pytest.mark.parametrize("package", [True, False], ids=["package", "module"])
@pytest.mark.parametrize("text", ["", "import no_such_module", "raise SystemExit(3)"])
def test_another_project_called_bcc(tmp_path, package, text):
    # It is not run: it may be anything.
    place = another(tmp_path, text, package=package)
    assert run(PROBLEM, path=[tmp_path]).strip() == (
        f"the module bcc at {place} is another project (PyPI's bcc); remove it "
        "(pip uninstall bcc) and apt install python3-bpfcc False"
    )


def test_the_right_bcc(tmp_path):
    another(tmp_path)
    (tmp_path / "bcc/libbcc.py").touch()
    assert run(PROBLEM, path=[tmp_path]).strip() == "None False"


def test_no_bcc():
    said = run(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'bcc' else find(name, *a)\n"
        + PROBLEM
    )
    assert said.strip() == "bcc is not here (Debian: apt install python3-bpfcc) False"


def test_loading_with_another_bcc(tmp_path):
    need_root()
    another(tmp_path)
    said = run(
        "from probes.loader import Options, load\n"
        "from vtrace.errors import UnsupportedError\n"
        "try:\n"
        "    load(Options())\n"
        "except UnsupportedError as error:\n"
        "    print(error)\n",
        path=[tmp_path],
    )
    assert "is another project (PyPI's bcc)" in said


# Kernel headers.

RELEASE = os.uname().release
OWN = f"lib/modules/{RELEASE}"


def headers(root, *names):
    """Install Debian's header packages of these kernels."""
    for name in names:
        mkdirs(root, f"usr/src/linux-headers-{name}-amd64/include/generated")
        mkdirs(root, f"usr/src/linux-headers-{name}-common/include")


def test_no_headers(fake_root):
    assert preflight.kernel_headers() is None
    mkdirs(fake_root, "usr/src", OWN)
    assert preflight.kernel_headers() is None


def test_own_headers_of_debian_are_two_trees(fake_root):
    headers(fake_root, "6.1.0-1")
    mkdirs(fake_root, f"{OWN}/build/include/generated", f"{OWN}/source/include")
    assert preflight.kernel_headers() == (fake_root / OWN / "build", fake_root / OWN / "source")


def test_own_headers_in_one_tree(fake_root):
    mkdirs(fake_root, f"{OWN}/build/include/generated")
    assert preflight.kernel_headers() == (fake_root / OWN / "build", fake_root / OWN / "build")


def test_a_dangling_build_link_is_not_enough(fake_root):
    # What is left when the headers of the running kernel are removed.
    mkdirs(fake_root, OWN)
    (fake_root / OWN / "build").symlink_to("/usr/src/linux-headers-gone")
    headers(fake_root, "6.1.0-1")
    build, source = preflight.kernel_headers()
    assert (build.name, source.name) == (
        "linux-headers-6.1.0-1-amd64",
        "linux-headers-6.1.0-1-common",
    )


def test_headers_of_another_kernel_must_be_whole(fake_root):
    headers(fake_root, "6.1.0-1")
    mkdirs(fake_root, "usr/src/linux-headers-6.9.0-1-amd64/include/generated")
    mkdirs(fake_root, "usr/src/linux-headers-6.8.0-1-amd64")
    mkdirs(fake_root, "usr/src/linux-headers-6.8.0-1-common/include")
    mkdirs(fake_root, "usr/src/linux-headers-6.7.0-1-cloud-amd64/include/generated")
    build, _ = preflight.kernel_headers()
    assert build.name == "linux-headers-6.1.0-1-amd64"


def test_the_newest_of_several(fake_root):
    headers(fake_root, "6.1.0-1", "6.5.0-2", "6.3.0-7")
    build, _ = preflight.kernel_headers()
    assert build.name == "linux-headers-6.5.0-2-amd64"


def test_the_doctor_without_anything(fake_root, monkeypatch):
    mkdirs(fake_root, "proc/self")
    (fake_root / "proc/self/status").write_text("CapEff:\t0000000000000000\n")
    monkeypatch.setattr(preflight, "_KPROBE_PMU", fake_root / "none")
    monkeypatch.setattr(preflight, "_UPROBE_PMU", fake_root / "none")
    monkeypatch.setattr(preflight, "bcc_problem", lambda: "bcc is not here")
    found = {check.name: check for check in preflight.checks()}
    assert not any(check.ok for check in found.values())
    assert found["kernel headers"].remedy == "apt install linux-headers-amd64"
    assert found["bcc"].remedy == "apt install python3-bpfcc"
    assert found["BTF"].detail == "no /sys/kernel/btf/vmlinux"
    assert "QEMU's own queues are not traced" in found["uprobes"].detail
    monkeypatch.setattr(preflight, "_UPROBE_PMU", fake_root)
    (lacking,) = [one for one in preflight.checks() if one.name == "uprobes"]
    assert not lacking.ok
    assert lacking.detail.startswith("the kernel has them; attaching lacks ")
    assert "sudo" in lacking.remedy


# Programs on kernels that are made up.


def test_a_kernel_that_has_everything(tracefs):
    for state in preflight.programs(fake_kernel(tracefs=tracefs)):
        assert state.ready, state.reason
        assert all(point.ready for point in state.points)


def test_no_kprobes(tracefs):
    found = states(fake_kernel(kprobes=False, tracefs=tracefs))
    assert {name: state.ready for name, state in found.items()} == {
        "vhost": False,
        "qemu_virtio": True,
        "exits": True,
        "kvm": False,
        "tun": False,
        "drops": True,
        "sched": True,
    }
    assert found["vhost"].reason == "this kernel has no kprobes (CONFIG_KPROBES)"


def test_no_uprobes(tracefs):
    found = states(fake_kernel(uprobes=False, tracefs=tracefs))
    assert [name for name, state in found.items() if not state.ready] == ["qemu_virtio"]
    assert found["qemu_virtio"].reason == "this kernel has no uprobes (CONFIG_UPROBES)"


def test_no_tracefs():
    found = states(fake_kernel(tracefs=None))
    # Exits of vCPUs have a program of their own, frames that enter the host have not.
    ready = {name for name, state in found.items() if state.ready}
    assert ready == {"vhost", "qemu_virtio", "kvm"}
    assert "mount -t tracefs" in found["drops"].reason


def test_a_module_that_is_not_loaded(fake_root, tracefs):
    mkdirs(fake_root, "sys/module/vhost")
    names = {f: 1 for p in PROGRAMS for q in p.points for f in q.functions if q.modules != ("tun",)}
    names |= {name: 1 for program in PROGRAMS for name in program.symbols}
    found = states(fake_kernel(names, tracefs=tracefs))
    assert found["vhost"].ready
    assert found["tun"].reason == (
        "no kernel symbol tun_net_xmit (module tun is not loaded; try: modprobe tun)"
    )


def test_a_function_that_a_loaded_module_lacks(fake_root, tracefs):
    mkdirs(fake_root, "sys/module/vhost", "sys/module/vhost_net", "sys/module/tun")
    found = states(fake_kernel({}, tracefs=tracefs))
    assert found["vhost"].reason == "no kernel symbol vhost_poll_wakeup"
    assert found["kvm"].reason.startswith("no kernel symbol ioeventfd_write (module kvm")
    assert found["sched"].ready


def test_without_an_optional_point_a_program_runs(tracefs):
    names = {f: 1 for p in PROGRAMS for q in p.points for f in q.functions}
    names |= {name: 1 for program in PROGRAMS for name in program.symbols}
    del names["vhost_notify"]
    found = states(fake_kernel(names, tracefs=tracefs))
    assert found["vhost"].ready
    lacking = [point for point in found["vhost"].points if not point.ready]
    assert [point.point.name for point in lacking] == ["vhost_notify:return"]
    assert lacking[0].reason.startswith("no kernel symbol vhost_notify")


def test_what_a_program_needs_must_run(tracefs):
    found = states(fake_kernel(missing={"vhost_virtqueue.num"}, tracefs=tracefs))
    assert found["vhost"].reason == "BTF of vhost: no vhost_virtqueue.num"
    assert found["tun"].reason == "it needs program vhost"
    assert found["kvm"].ready, "kicks and interrupts of QEMU's own queues are seen without vhost"
    assert found["drops"].ready


def test_hidden_addresses_stop_a_program(tracefs):
    # With kernel.kptr_restrict=2 it would run and never know a queue.
    names = {f: 0 for p in PROGRAMS for q in p.points for f in q.functions}
    names |= {name: 0 for program in PROGRAMS for name in program.symbols}
    found = states(fake_kernel(names, tracefs=tracefs))
    assert found["vhost"].reason.startswith("the address of kernel symbol handle_rx_kick is hidden")
    assert "kptr_restrict" in found["vhost"].reason
    assert found["drops"].ready


def test_the_first_function_that_exists_is_taken():
    kernel = fake_kernel({"newer": 1, "older": 1})
    assert kernel.point(Point(handler="h", functions=("newer", "older"))).symbol == "newer"
    assert kernel.point(Point(handler="h", functions=("newest", "older"))).symbol == "older"
    state = kernel.point(Point(handler="h", functions=("a", "b")))
    assert (state.ready, state.reason) == (False, "no kernel symbol a or b")


def test_a_missing_symbol_is_named():
    program = Program(
        name="p", title="", kinds=(), points=(), offsets={}, symbols=("no_such_symbol",)
    )
    with pytest.raises(UnsupportedError, match="no kernel symbol no_such_symbol"):
        fake_kernel({}).macros(program)


def test_drop_reason_of_the_tracepoint(tmp_path):
    form = tmp_path / "events/skb/kfree_skb/format"
    form.parent.mkdir(parents=True)
    form.write_text("\tfield:unsigned short protocol;\toffset:24;\n")
    assert not fake_kernel(tracefs=tmp_path).has_drop_reason()
    form.write_text("\tfield:enum skb_drop_reason reason;\toffset:28;\n")
    assert fake_kernel(tracefs=tmp_path).has_drop_reason()
    assert not fake_kernel(tracefs=None).has_drop_reason()
