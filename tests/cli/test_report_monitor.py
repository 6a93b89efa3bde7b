"""QEMU's monitor held against what probes saw: the truth is quiet, and each lie is found."""

import copy
import json
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from parsers.batch import EventBatch
from parsers.tracefile import TraceWriter
from tests.requests.devices import QUEUES, Devices
from vtrace.compare import CODES
from vtrace.errors import ExitCode
from vtrace.inventory.features import feature_names
from vtrace.inventory.qmp import FEATURE_BITS
from vtrace.model import Flag, Kind

SECOND = 1_000_000_000
MEMORY = 1 << 30
DISK, INFLATE, DEFLATE, TX = 1, 5, 6, 13


def names_of(kind, bits):
    return [name for name, bit in feature_names(kind).items() if bits >> bit & 1]


class Told(Devices):
    """Chains, and looks at the monitor between them."""

    def __init__(self):
        super().__init__()
        self.looks = []
        self.balloon = MEMORY

    def requests(self, queue, count):
        for head in range(count):
            self.ask(queue, head, [bytes(16)], [bytes(513)])

    def pages(self, queue, count):
        self.ask(queue, 0, [bytes(4 * count)], [])

    def turn(self, queue, kind):
        """A queue is reset, or set up."""
        self.later(SECOND)
        self.add(kind, queue, position=self.avail[queue], used=self.used[queue],
                 flags=int(Flag.POSITION | Flag.USED))  # fmt: skip
        self.avail[queue] = self.used[queue] = 0

    def look(self, change=lambda look: None, took_ns=2_000_000):
        """QEMU is asked, and says what is true; ``change`` makes a lie of it."""
        self.later(2 * SECOND)
        lo_ns = self.now
        hi_ns = self.later(took_ns)
        devices = {}
        for number, (device, kind, index, name, _, features) in QUEUES.items():
            row = devices.setdefault(
                device,
                {
                    "path": f"/machine/peripheral/{device}", "virtio": f"virtio-{kind}",
                    "status": ["ACKNOWLEDGE", "DRIVER", "FEATURES_OK", "DRIVER_OK"],
                    "features": names_of(kind, features), "bits": 0, "num_queues": 0,
                    "started": True, "broken": False, "vhost": False, "queues": [],
                    "lo_ns": lo_ns, "hi_ns": hi_ns,
                },
            )  # fmt: skip
            row["bits"] = sum(1 << FEATURE_BITS[n] for n in row["features"] if n in FEATURE_BITS)
            row["num_queues"] = max(row["num_queues"], index + 1)
            place = self.avail.get(number, 0) & 0xFFFF, self.used.get(number, 0) & 0xFFFF
            row["queues"].append(
                {
                    "index": index, "name": name, "size": 128, "desc": 4096, "driver": 8192,
                    "device": 12288, "taken": place[0], "used": place[1], "inuse": 0,
                }
            )  # fmt: skip
        look = {
            "lo_ns": lo_ns, "hi_ns": hi_ns, "version": "7.2", "state": "running",
            "balloon_bytes": self.balloon, "devices": devices,
        }  # fmt: skip
        change(look)
        self.looks.append((len(self.told), look))
        self.later(2 * SECOND)

    def batches(self):
        """Cut where QEMU was asked; what it said stands in the batch behind."""
        made = super().batches(*[at for at, _ in self.looks if 0 < at < len(self.told)])
        made.append(EventBatch.empty())
        made[0].meta |= {"qmp": {"cpx": {}}}
        # Both in the batch that comes next, and behind all of it.
        for at, look in self.looks:
            behind = next(
                (n for n, one in enumerate(made) if len(one) and one["time"][0] > look["hi_ns"]),
                len(made) - 1,
            )
            assert at >= 0
            made[behind].meta = made[behind].meta | {"qmp": {"cpx": {"look": look}}}
        return made

    def write(self, path):
        with TraceWriter(path) as writer:
            for batch in self.batches():
                writer.write(batch)
        return path


@pytest.fixture
def held(vtrace, tmp_path):
    """Return a function that writes what was told, and returns what the report says of it."""

    def run(told, *options):
        path = told.write(tmp_path / "told.vtrace")
        done = vtrace("report", "--json", *options, path)
        assert done.code == ExitCode.OK, done.err
        report = json.loads(done.out)
        schema = json.loads((files("vtrace") / "schemas" / "report.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(report)
        found = report["monitor"]
        found["text"] = vtrace("report", *options, path).out
        return found

    return run


def story(change=lambda look: None, after=None):
    told = Told()
    told.look()
    told.requests(DISK, 7)
    told.requests(TX, 3)
    told.balloon -= 4096 * 256
    told.pages(INFLATE, 300)
    told.pages(DEFLATE, 44)
    told.look(change)
    if after:
        after(told)
    else:
        told.requests(DISK, 2)
        told.requests(TX, 1)
    return told


def test_the_truth_is_one_quiet_line(held):
    found = held(story())
    assert found["disagreements"] == []
    # Ten queues were never used: what they have in common is how they were set up.
    assert found["not_compared"] == [
        {"what": "places in a ring", "why": "no event tells where it was", "count": 10}
    ]
    assert found["queues"] == len(QUEUES)
    assert found["facts"] > 50
    assert f"QMP agrees: {len(QUEUES)} queues, {found['facts']} facts\n" in found["text"]
    assert "disagrees" not in found["text"]


def of(look, device, queue=None):
    row = look["devices"][device]
    return row if queue is None else next(one for one in row["queues"] if one["name"] == queue)


LIES = {
    "qmp_ring_size": lambda look: of(look, "disk0", "req0").update(size=256),
    "qmp_ring_layout": lambda look: of(look, "disk0").update(bits=5 << 32),
    "qmp_features": lambda look: of(look, "net0")["features"].append("VIRTIO_NET_F_CSUM"),
    "qmp_backend": lambda look: of(look, "net0").update(vhost=True),
    "qmp_queues": lambda look: of(look, "disk0").update(num_queues=0),
    "qmp_taken": lambda look: of(look, "disk0", "req0").update(taken=8),
    "qmp_used": lambda look: of(look, "net0", "tx0").update(used=2),
    "qmp_status": lambda look: of(look, "net0").update(status=["ACKNOWLEDGE", "DRIVER"]),
    "qmp_balloon": lambda look: look.update(balloon_bytes=look["balloon_bytes"] + 4096),
}


@pytest.mark.parametrize("code", CODES)
def test_each_lie_is_found(held, code):
    found = held(story(LIES[code]))
    rows = [row for row in found["disagreements"] if row["code"] == code]
    assert len(rows) == 1
    # A packed ring is a feature, too.
    assert len(found["disagreements"]) == (2 if code == "qmp_ring_layout" else 1)
    (row,) = rows
    assert row["vm"] == "cpx"
    assert row["monitor"] in row["text"]
    assert row["probes"] in row["text"]
    assert code in found["text"]
    assert row["text"] in found["text"]
    assert "on the rest they agree" in found["text"]


def test_each_code_is_described(root):
    page = (root / "docs" / "monitor.md").read_text()
    schema = json.loads((files("vtrace") / "schemas" / "report.json").read_text())
    monitor = schema["properties"]["monitor"]["properties"]
    codes = monitor["disagreements"]["items"]["properties"]["code"]["enum"]
    assert codes == list(CODES)
    assert all(f"| `{code}` |" in page for code in codes)


def test_both_sides_are_named(held):
    (row,) = held(story(LIES["qmp_taken"]))["disagreements"]
    assert row["text"].startswith(
        "cpx disk0 req0: QEMU says the device has taken chains up to 8, probes saw 7: "
    )
    (row,) = held(story(LIES["qmp_features"]))["disagreements"]
    assert "QEMU says NET_F_CSUM on, probes saw it off" in row["text"]
    (row,) = held(story(LIES["qmp_balloon"]))["disagreements"]
    assert "255 pages more in the balloon" in row["text"]
    assert "256 pages more inflated" in row["text"]


@pytest.mark.parametrize("taken", range(5, 12))
def test_what_moves_meanwhile_is_allowed_for(held, taken):
    told = Told()
    told.requests(DISK, 5)
    # QEMU's answer is of some moment while six more went by.
    told.look(lambda look: of(look, "disk0", "req0").update(taken=taken, used=taken))
    lo_ns = told.looks[-1][1]["lo_ns"]
    told.looks[-1][1]["devices"]["disk0"]["hi_ns"] = lo_ns + 3 * SECOND
    told.now = lo_ns + SECOND
    told.requests(DISK, 6)
    told.later(5 * SECOND)
    told.requests(DISK, 1)
    found = held(told)
    assert found["disagreements"] == []


@pytest.mark.parametrize("taken", [4, 12, 65535])
def test_and_no_more_than_that(held, taken):
    told = Told()
    told.requests(DISK, 5)
    told.look(lambda look: of(look, "disk0", "req0").update(taken=taken))
    lo_ns = told.looks[-1][1]["lo_ns"]
    told.looks[-1][1]["devices"]["disk0"]["hi_ns"] = lo_ns + 3 * SECOND
    told.now = lo_ns + SECOND
    told.requests(DISK, 6)
    told.later(5 * SECOND)
    told.requests(DISK, 1)
    (row,) = held(told)["disagreements"]
    assert row["code"] == "qmp_taken"
    assert "probes saw 5 to 11" in row["text"]


def test_places_go_around(held):
    told = Told()
    told.avail[DISK] = told.used[DISK] = 65534
    told.started.add(DISK)
    told.requests(DISK, 3)
    told.look()
    found = held(told)
    assert found["disagreements"] == []
    assert of(told.looks[0][1], "disk0", "req0")["taken"] == 1


def test_before_the_first_event_its_own_place_says_enough(held):
    told = Told()
    told.avail[DISK] = told.used[DISK] = 40
    told.started.add(DISK)
    told.look(lambda look: of(look, "disk0", "req0").update(taken=41))
    told.requests(DISK, 3)
    told.look()
    (row,) = held(told)["disagreements"]
    assert (row["code"], row["time_ns"]) == ("qmp_taken", told.looks[0][1]["lo_ns"])


def test_a_reset_that_did_not_arrive(held):
    told = Told()
    told.requests(DISK, 5)
    told.turn(DISK, Kind.STOP)
    told.look()
    assert held(told)["disagreements"] == []
    told = Told()
    told.requests(DISK, 5)
    told.turn(DISK, Kind.STOP)
    told.look(lambda look: of(look, "disk0", "req0").update(taken=5, used=5))
    (row,) = held(told)["disagreements"]
    assert row["code"] == "qmp_status"
    assert "probes saw a reset, and no use since" in row["text"]


def test_what_was_set_up_anew_since_is_not_compared(held):
    def again(told):
        told.turn(DISK, Kind.STOP)
        told.turn(DISK, Kind.START)
        told.requests(DISK, 3)

    found = held(story(LIES["qmp_ring_size"], again))
    assert found["disagreements"] == []
    assert {"a ring"} <= {row["what"] for row in found["not_compared"]}
    assert "not compared: a ring: it was reset or set up since QEMU was asked" in found["text"]


def test_a_balloon_that_moves_is_not_compared(held):
    told = Told()
    told.look()
    told.pages(INFLATE, 256)
    told.later(SECOND)
    told.pages(INFLATE, 256)
    told.now -= 2 * SECOND - 100_000_000
    told.look(took_ns=1000)
    found = held(told)
    assert found["disagreements"] == []
    assert ["the balloon", "it was moving when QEMU was asked"] in [
        [row["what"], row["why"]] for row in found["not_compared"]
    ]


def test_lost_records_are_no_disagreement(held):
    told = story(LIES["qmp_taken"])
    whole = told.meta

    def meta():
        found = whole()
        found["counts"]["POP"]["lost"] += 1
        found["counts"]["POP"]["produced"] += 1
        return found

    told.meta = meta
    found = held(told)
    assert found["disagreements"] == []
    assert [row["why"] for row in found["not_compared"]] == [
        "records were lost, or could not be read"
    ]


def test_a_part_of_a_recording_is_not_compared(held):
    found = held(story(LIES["qmp_taken"]), "--since", "1s")
    assert found["disagreements"] == []
    assert "only a part of the recording was read" in found["text"]


def test_of_one_device(held):
    assert held(story(LIES["qmp_taken"]), "--device", "net0")["disagreements"] == []
    assert held(story(LIES["qmp_taken"]), "--device", "disk0")["disagreements"] != []


def test_a_monitor_that_did_not_answer(vtrace, tmp_path):
    told = Devices()
    told.ask(DISK, 0, [bytes(16)], [bytes(513)])
    (batch,) = told.batches()
    batch.meta["qmp"] = {"cpx": {"missing": "no answer within 5 s"}}
    path = tmp_path / "silent.vtrace"
    with TraceWriter(path) as writer:
        writer.write(batch)
    out = vtrace("report", path).out
    assert "QMP: nothing of it could be held against events" in out
    assert "not compared: VM cpx: no answer within 5 s" in out


def test_a_recording_without_it_says_nothing(vtrace, told):
    assert "QMP" not in vtrace("report", told).out
    assert "monitor" not in json.loads(vtrace("report", "--json", told).out)


RUBBISH = [None, 0, -1, 1 << 70, "x", [], {}, [[]], [{}], {"a": []}, 0.5, True]


@pytest.mark.parametrize("seed", range(20))
def test_a_section_that_makes_no_sense_is_no_crash(vtrace, tmp_path, seed):
    chance = np.random.default_rng(seed)
    told = story()
    for _, look in told.looks:
        spoil(look, chance)
    path = told.write(tmp_path / "spoilt.vtrace")
    done = vtrace("report", "--json", path)
    assert done.code == ExitCode.OK, done.err


def spoil(value, chance):
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for key, one in items:
        if chance.random() < 0.1:
            value[key] = copy.deepcopy(RUBBISH[chance.integers(len(RUBBISH))])
        elif isinstance(one, dict | list):
            spoil(one, chance)
