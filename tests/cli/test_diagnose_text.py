"""What a diagnosis looks like: sentences, tables, widths, hostile names, JSON."""

import dataclasses
import json
from datetime import UTC
from importlib.resources import files

import jsonschema
import pytest

from tests.cli import diagnoses
from vtrace.cli.output import Style
from vtrace.diagnose import findings
from vtrace.diagnose.codes import CODES, HOPS
from vtrace.diagnose.findings import Basis, Certainty, Diagnosis, LedgerRow, as_json
from vtrace.diagnose.prose.headline import Times, headline
from vtrace.diagnose.prose.ledger import ledger_lines
from vtrace.diagnose.prose.lines import hanging, wrapped
from vtrace.diagnose.prose.verdict import Look, config_lines, verdict_lines
from vtrace.text import cells

TIMES = Times(start_ns=diagnoses.START, anchor_ns=diagnoses.ANCHOR, zone=UTC)
PLAIN = Style(color=False)


def look(width=80, **options):
    return Look(width=width, times=TIMES, source="run.vtrace", **options)


def text_of(diagnosis, **options):
    return "\n".join(verdict_lines(diagnosis, look(**options)))


# Lines


def test_text_in_lines():
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("", 7) == [""]
    assert wrapped("abcdefghij kl", 4) == ["abcd", "efgh", "ij", "kl"]
    assert list(hanging("  do  ", "one two three four five", 26)) == [
        "  do  one two three four",
        "      five",
    ]


def test_a_number_stays_with_its_unit():
    assert wrapped("waits for 1.20 s", 14) == ["waits for", "1.20 s"]
    assert wrapped("waits for 90 % now", 12) == ["waits for", "90 % now"]


def test_wide_characters_take_two_cells():
    lines = wrapped("漢字" * 10, 8)
    assert all(cells(line) <= 8 for line in lines)
    assert "".join(lines) == "漢字" * 10


# The verdict in a sentence


def test_the_verdict_of_one_cause():
    assert headline(diagnoses.lossy(), TIMES) == (
        "1,771 of 4,000 UDP packets towards cpx were lost: the guest's vCPUs did not run (R5d)."
    )


def test_the_verdict_of_two_causes_has_the_packets_of_each():
    diagnosis = diagnoses.lossy()
    diagnosis.findings.append(diagnoses.shaped())
    assert headline(diagnosis, TIMES) == (
        "2,119 of 4,000 UDP packets towards cpx were lost: the guest's vCPUs did not run "
        "(R5d, 1,771) and the tap's qdisc dropped (R4, 348, likely)."
    )


def test_the_verdict_of_both_directions():
    diagnosis = diagnoses.lossy()
    lost = diagnoses.shaped()
    lost.code, lost.direction, lost.packets = "T10", "tx", 5
    lost.certainty = Certainty.PROVEN
    diagnosis.findings.append(lost)
    assert headline(diagnosis, TIMES) == (
        "1,776 UDP packets were lost: 1,771 of 4,000 towards cpx: the guest's vCPUs did not run "
        "(R5d); 5 of 348 from cpx: a qdisc on the way out dropped (T10)."
    )


def test_the_verdict_of_one_packet():
    diagnosis = diagnoses.lossy()
    diagnosis.findings[0].packets = 1
    assert headline(diagnosis, TIMES).startswith("1 of 4,000 UDP packets towards cpx was lost:")
    diagnosis.ledger = []
    assert headline(diagnosis, TIMES).startswith("1 UDP packet towards cpx was lost:")
    diagnosis.protocol = "all"
    assert headline(diagnosis, TIMES).startswith("1 packet towards cpx was lost:")


def test_the_verdict_where_no_vm_is_known():
    diagnosis = diagnoses.lossy()
    diagnosis.findings[0].vm = ""
    diagnosis.findings[0].device = "eth0"
    assert headline(diagnosis, TIMES).startswith("1,771 UDP packets at eth0 were lost:")


def test_the_verdict_of_many_causes_names_the_first():
    diagnosis = diagnoses.lossy()
    for code in ("R4", "R3", "R2", "R1"):
        other = diagnoses.shaped()
        other.code, other.packets = code, 1
        diagnosis.findings.append(other)
    text = headline(diagnosis, TIMES)
    assert text.endswith("and 2 more causes.")
    assert "R4" in text
    assert "R1" not in text


def test_the_verdict_without_loss():
    assert headline(diagnoses.healthy(), TIMES) == (
        "No UDP packet was lost between 12:00:05.000000 and 12:00:15.000000; "
        "4,000 reached cpx's driver; 348 came from cpx."
    )
    since_start = dataclasses.replace(TIMES, relative=True)
    assert headline(diagnoses.healthy(), since_start).startswith(
        "No UDP packet was lost in 10.0s; "
    )


def test_what_waits_in_the_ring_has_not_reached_the_driver():
    diagnosis = diagnoses.healthy()
    (ring,) = [row for row in diagnosis.ledger if row.hop == "guest ring"]
    ring.left, ring.occupancy_change = 256, 3744
    text = headline(diagnosis, TIMES)
    assert "; 4,000 reached cpx's ring, 256 of them its driver; 348 came from cpx." in text
    diagnosis.ledger.remove(ring)
    assert "; 4,000 reached cpx's ring; 348" in headline(diagnosis, TIMES)


@pytest.mark.parametrize("doubt", ["lost records", "unexplained", "disagreement"])
def test_the_verdict_without_loss_is_careful_where_it_must_be(doubt):
    diagnosis = diagnoses.healthy()
    if doubt == "lost records":
        diagnosis.loss["lost"] = 3
    elif doubt == "unexplained":
        diagnosis.unexplained = 1
    else:
        diagnosis.disagreements = diagnoses.worst().disagreements
    text = headline(diagnosis, TIMES)
    assert text.startswith("No UDP packet was seen to be lost between")
    assert ("1 packet is unaccounted for." in text) == (doubt == "unexplained")


def test_a_finding_without_loss():
    diagnosis = diagnoses.healthy()
    diagnosis.findings = [diagnoses.interrupt()]
    assert headline(diagnosis, TIMES).endswith(
        "348 came from cpx, but: an interrupt was lost or not served (S1, possible)."
    )


def test_nothing_was_seen_is_not_nothing_was_lost():
    empty = Diagnosis(source="run.vtrace", start_ns=diagnoses.START, duration_ns=1)
    assert "No UDP packet was seen" in headline(empty, TIMES)
    assert "nothing to judge" in headline(empty, TIMES)
    assert "was lost" not in text_of(empty)


def test_many_guests_are_summed_up():
    diagnosis = diagnoses.healthy()
    (row, *_) = diagnosis.ledger
    diagnosis.ledger = [
        dataclasses.replace(row, vm=f"vm{number}", hop="vhost", left=10) for number in range(5)
    ]
    assert headline(diagnosis, TIMES).endswith("; 50 were carried for 5 guests.")


# The whole


def test_a_verdict_reads_from_the_verdict_to_the_doubts():
    text = text_of(diagnoses.worst())
    order = [
        "were lost:",
        "R5d  1,771 packets  proven  cpx net0 rx0",
        "virsh resume cpx",
        "paused -> running",
        "see     docs/findings/R5d.md",
        "R4  348 packets  likely",
        "S1  possible",
        "ledger of UDP packets",
        "towards cpx, net0",
        "from cpx, net0",
        "flows that lost",
        "disagree",
        "events REFUSE 1,771, link/tap0 tx_dropped 1,790",
        "the host cannot see",
        "proof: --guest-agent",
        "C-txqueuelen  txqueuelen of tap0  cpx net0",
        "note: sched:sched_switch",
        "note: vtrace itself lost 1,000 records",
    ]
    flat = " ".join(text.split())
    places = [flat.index(" ".join(words.split())) for words in order]
    assert places == sorted(places)


def test_a_command_stands_alone_to_be_copied():
    long = "ip link set tap0 txqueuelen 4000 && " * 5 + "true"
    diagnosis = diagnoses.lossy()
    diagnosis.findings[0].remedies[0] = findings.Remedy(text="Do.", command=long)
    lines = text_of(diagnosis).splitlines()
    assert [line.strip() for line in lines].count(long) == 1
    coloured = verdict_lines(diagnosis, look(style=Style(color=True)))
    assert any("\x1b[1m" + long + "\x1b[0m" in line for line in coloured)


def test_what_is_left_out_is_said_and_shown_on_request():
    brief = text_of(diagnoses.lossy())
    assert "256 chains were used" not in brief
    assert "1 more seen (-v)" in brief
    assert "vtrace drops -Y" not in brief
    assert "C-kernel" not in brief
    full = text_of(diagnoses.lossy(), verbose=True)
    assert "256 chains were used" in full
    assert "more seen" not in full
    assert "vtrace drops -Y 'reason == FULL_RING' run.vtrace" in full
    assert "C-kernel" in full


def test_flows_are_told_once():
    diagnosis = diagnoses.lossy()
    text = text_of(diagnosis)
    assert f"{diagnoses.FLOW}: 1,771 of 4,000 packets" in text
    assert "flows that lost" not in text
    assert "flows that lost" in text_of(diagnosis, verbose=True)
    # A flow that no finding names, or that two took from.
    diagnosis.flows[0].dropped = {"R5d": 1000, "R4": 771}
    flat = " ".join(text_of(diagnosis).split())
    assert "1,771 of 4,000: R5d 1,000, R4 771 (cpx net0)" in flat
    diagnosis.flows[0].dropped = {"R5d": 1771}
    diagnosis.flows[0].flow = "another"
    assert "another  1,771 of 4,000" in text_of(diagnosis)


def test_a_burst_of_one_packet_has_no_length():
    diagnosis = diagnoses.lossy()
    at = diagnoses.START
    diagnosis.findings[0].bursts = [findings.Burst(start_ns=at, end_ns=at, packets=1)]
    assert "burst   12:00:05.000000, 1 packet\n" in text_of(diagnosis)


def test_healthy_is_short():
    text = text_of(diagnoses.healthy())
    assert len(text.splitlines()) <= 12
    assert "ledger" not in text
    assert "C-txqueuelen  txqueuelen of tap0: 1000 -> 4000  (cpx net0)" in text
    assert "the host cannot see" in text
    assert "ledger" in text_of(diagnoses.healthy(), verbose=True)


@pytest.mark.parametrize("width", [60, 80, 100, 132])
@pytest.mark.parametrize("verbose", [False, True])
def test_lines_keep_to_the_width(width, verbose):
    commands = {"virsh resume cpx", "ip link set tap0 txqueuelen 4000"}
    for line in verdict_lines(diagnoses.worst(), look(width=width, verbose=verbose)):
        if line.strip() not in commands and "vtrace drops" not in line:
            assert cells(line) <= max(width, 66), line
        assert line == line.rstrip()


HOSTILE = {
    "escape": "\x1b]0;owned\x07\x1b[2J",
    "lines": "a\nR1  0 packets  proven\r\tb",
    "bidi": "\u202etxt.exe\u2066",
    "wide": "漢字" * 300,
    "long": "x" * 5000,
    "empty": "",
    "lone": "\ud800",
    "braces": "%s{0}{vm!r}",
}


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_steer_nothing(text, verbose):
    whole = text_of(diagnoses.hostile(text), verbose=verbose)
    assert all(line.isprintable() for line in whole.split("\n"))
    assert not any(line.startswith("R1 ") for line in whole.split("\n"))
    config = "\n".join(config_lines(diagnoses.hostile(text), look(verbose=verbose)))
    assert all(line.isprintable() for line in config.split("\n"))


def test_colour_changes_no_word():
    coloured = "\n".join(verdict_lines(diagnoses.worst(), look(style=Style(color=True))))
    assert "\x1b[" in coloured
    for code in ("\x1b[1m", "\x1b[2m", "\x1b[1;31m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == text_of(diagnoses.worst())


def test_the_configuration_alone():
    text = "\n".join(config_lines(diagnoses.lossy(), look()))
    assert text.startswith("2 points of the configuration, 1 of them may lose packets.")
    assert "R5d" not in text
    assert text.index("C-txqueuelen") < text.index("C-kernel")
    nothing = diagnoses.lossy()
    nothing.review = []
    lines = config_lines(nothing, look(), ["a", "b", "c", "d"])
    assert lines[1:] == [
        "",
        "not known: a",
        "not known: b",
        "not known: c",
        " " * 10 + "1 more that are not known (-v)",
    ]
    assert "not known: d" in config_lines(nothing, look(verbose=True), ["a", "b", "c", "d"])
    assert config_lines(nothing, look(), None) == [
        "The recording does not say how the host was configured."
    ]
    assert "Nothing in the configuration costs" in config_lines(nothing, look())[0]


# The ledger


def test_the_ledger_balances_before_the_eyes():
    lines = ledger_lines(diagnoses.lossy(), 100, PLAIN)
    (tap,) = [line for line in lines if "FULL_RING" in line]
    assert tap.split() == ["tap", "4,000", "e", "2,229", "e", "1,771", "e", "0", "0", "FULL_RING"]
    (ring,) = [line for line in lines if "guest ring" in line]
    assert ring.split() == ["guest", "ring", "2,229", "e", "2,221", "~", "0", "+8", "0"]
    (guest,) = [line for line in lines if line.startswith("  guest  ")]
    assert guest.split() == ["guest", "2,221", "e", "-", "-", "-", "-"]
    assert "its own counters tell" in "\n".join(lines)


def test_the_ledger_explains_the_marks_that_it_uses():
    (*_, legend) = ledger_lines(diagnoses.lossy(), 200, PLAIN)
    for words in ("e counted", "c by counters", "~ follows", "- not seen"):
        assert words in legend
    diagnosis = diagnoses.lossy()
    diagnosis.ledger = diagnosis.ledger[:1]
    (*_, legend) = ledger_lines(diagnosis, 200, PLAIN)
    assert legend.strip() == "e counted packet by packet"


def test_reasons_of_a_hop_are_counted():
    row = LedgerRow(
        direction="rx",
        hop="tap",
        vm="cpx",
        device="net0",
        entered=10,
        left=3,
        dropped={"TAP_FILTER": 2, "FULL_RING": 5},
        basis_dropped=Basis.COUNTERS,
    )
    text = "\n".join(ledger_lines(Diagnosis(ledger=[row]), 120, PLAIN))
    assert "7 c" in text
    assert "5 FULL_RING, 2 TAP_FILTER" in text


def test_queues_have_a_column_where_there_are_several():
    diagnosis = diagnoses.lossy()
    assert "queue" not in ledger_lines(diagnosis, 80, PLAIN)[2].split()
    other = dataclasses.replace(diagnosis.ledger[0], queue="rx1", entered=7, left=7, dropped={})
    diagnosis.ledger.insert(1, other)
    lines = ledger_lines(diagnosis, 80, PLAIN)
    assert lines[2].split()[:2] == ["hop", "queue"]
    assert any(line.split()[:2] == ["tap", "rx1"] for line in lines)


def test_hops_come_in_the_order_of_the_way():
    rows = [LedgerRow(direction="rx", hop=hop, vm="cpx", device="net0") for hop in reversed(HOPS)]
    lines = ledger_lines(Diagnosis(ledger=rows), 80, PLAIN)
    assert [line[2:].split("  ")[0] for line in lines[3:-1]] == list(HOPS)


# JSON


def published():
    text = (files("vtrace") / "schemas" / "diagnose.json").read_text()
    return json.loads(text)


@pytest.mark.parametrize("made", [diagnoses.lossy, diagnoses.healthy, diagnoses.worst, Diagnosis])
def test_json_is_as_published(made):
    validator = jsonschema.Draft202012Validator(published())
    document = as_json(made())
    validator.validate(json.loads(json.dumps(document)))


def test_json_is_what_design_promises():
    document = as_json(diagnoses.lossy())
    row = document["ledger"][0]
    assert {name: row[name] for name in ("in", "out", "dropped", "occupancy_change")} == {
        "in": 4000,
        "out": 2229,
        "dropped": {"FULL_RING": 1771},
        "occupancy_change": 0,
    }
    (finding,) = document["findings"]
    assert finding["remedy"] == {
        "text": "Let the guest run again, and find out who stopped it.",
        "command": "virsh resume cpx",
        "current": "paused",
        "proposed": "running",
    }
    assert finding["flows"] == [{"flow": diagnoses.FLOW, "packets": 1771}]
    assert finding["certainty"] == "proven"


PARTS = {
    "ledger_row": findings.LedgerRow,
    "finding": findings.Finding,
    "evidence": findings.Evidence,
    "remedy": findings.Remedy,
    "burst": findings.Burst,
    "flow": findings.FlowRow,
    "disagreement": findings.Disagreement,
    "blind_spot": findings.BlindSpot,
    "review": findings.Review,
}


@pytest.mark.parametrize("name", PARTS)
def test_the_schema_has_every_key_and_no_other(name):
    part = published()["$defs"][name]
    renamed = {"entered": "in", "left": "out"}
    keys = {renamed.get(field.name, field.name) for field in dataclasses.fields(PARTS[name])}
    if name == "finding":
        keys |= {"remedy"}
    assert set(part["properties"]) == set(part["required"]) == keys


def test_the_schema_has_the_keys_of_a_diagnosis():
    schema = published()
    keys = {field.name for field in dataclasses.fields(Diagnosis)}
    assert set(schema["properties"]) == set(schema["required"]) == keys
    assert schema["$defs"]["ledger_row"]["properties"]["hop"]["enum"] == list(HOPS)
    assert schema["$defs"]["basis"]["enum"] == [str(one) for one in Basis]
    assert schema["$defs"]["finding"]["properties"]["certainty"]["enum"] == [
        str(one) for one in Certainty
    ]


def test_titles_make_sentences():
    for code in CODES.values():
        assert code.title
        assert not code.title.endswith(".")
