"""Live: a verdict on the stream of a running recorder, with what the guest counts itself."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

from tests.diagnose.cases.towards import GuestSocket
from tests.diagnose.stage import Stage, play
from tests.diagnose.verdicts import diagnose, wrong
from tests.host.conftest import START_S, frozen
from tests.host.test_live import Passed

VTRACE = Path(sys.executable).with_name("vtrace")
ASKED_EVERY_S = 5.0
"""How often the recorder asks a guest (``--guest-cmd``)."""


def _json_of(path: Path) -> dict[str, Any]:
    done = subprocess.run([VTRACE, "diagnose", "--json", path], capture_output=True, check=True)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_live_verdict_is_that_of_the_file_and_the_guest_is_believed(
    stage: Stage, tmp_path: Path
) -> None:
    host, guest = stage.host, stage.guest("cpx")
    answer = tmp_path / "live.json"
    asked = f"--guest-cmd 'cpx=/run/lab/agent ask {guest.folder}/ask.sock'"
    with contextlib.ExitStack() as held:
        link = held.enter_context(host.open_stream())
        out = held.enter_context(answer.open("wb"))
        reader = subprocess.Popen(
            [VTRACE, "diagnose", "--json", "-"],
            stdin=subprocess.PIPE,
            stdout=out,
        )
        passed = Passed(link, cast("BinaryIO", reader.stdin))
        passed.start()
        with frozen(host):
            job = host.start(
                f"cd / && python3 -m vtrace record {asked} -w - 2>/share/told.err "
                "| tee /share/told.vtrace >/dev/virtio-ports/vtrace.stream"
            )
            deadline = time.monotonic() + START_S
            while "recording into" not in host.run("cat /share/told.err", check=False).out:
                assert time.monotonic() < deadline, "not attached"
                time.sleep(0.3)
        quiet_s = ASKED_EVERY_S + 2
        stage.settle((guest,), quiet_s=quiet_s)
        near = play(stage, "told-near", GuestSocket(stage, guest, lose=False), quiet_s=quiet_s)
        # The next answer of the guest comes behind the near miss and before the loss.
        stage.settle((guest,), quiet_s=quiet_s)
        case = play(stage, "told", GuestSocket(stage, guest), quiet_s=quiet_s)
        # The guest stands still while probes are detached; it was asked since the last datagram.
        with frozen(host):
            host.run("pkill -INT -of '^python3 -m vtrace record'")
            job.join(60)
        path = host.share / "told.vtrace"
        passed.until(path.stat().st_size)
        assert reader.wait(120) == 0
    live, offline = json.loads(answer.read_text()), _json_of(path)
    lost = case.blind[0].packets
    assert [(one["code"], one["packets"]) for one in live["findings"]] == [("R8", lost)]
    assert live["unexplained"] == 0
    for name in ("findings", "ledger", "flows", "unexplained", "blind_spots", "disagreements"):
        assert live[name] == offline[name]
    assert wrong(case, diagnose(path, case), case.blind) == []
    assert wrong(near, diagnose(path, near)) == []
