"""Diagnoses made by hand: what the engine would say, for tests of how it is shown."""

from __future__ import annotations

from dataclasses import replace

from vtrace.diagnose.findings import (
    Basis,
    BlindSpot,
    Burst,
    Certainty,
    Diagnosis,
    Disagreement,
    Evidence,
    Finding,
    FlowRow,
    LedgerRow,
    Remedy,
    Review,
)

SECOND = 1_000_000_000
START = 5 * SECOND
ANCHOR = 1_787_313_600 * SECOND
"""2026-08-21 12:00:00 UTC"""
FLOW = "UDP 10.9.0.1:5001 > 10.9.0.2:7001"
RX = {"direction": "rx", "vm": "cpx", "device": "net0"}
TX = {"direction": "tx", "vm": "cpx", "device": "net0"}


def stopped() -> Finding:
    """A guest whose vCPUs did not run."""
    return Finding(
        code="R5d",
        cause="The tap ring of tap0 was full because the vCPUs of cpx did not run for 1.20 s: "
        "QEMU (pid 4242) was stopped.",
        packets=1771,
        certainty=Certainty.PROVEN,
        **RX,
        queue="rx0",
        evidence=[
            Evidence(
                text="1,771 FULL_RING at tun_net_xmit, as many as tap0's tx_dropped grew.",
                source="link/tap0 tx_dropped",
                verb="drops",
                filter="reason == FULL_RING",
            ),
            Evidence(text="The guest's used_event did not move for 1.20 s.", source="lifecycles"),
            Evidence(text="vhost worker 812 had nothing to run for.", source="SCHED_IN"),
            Evidence(text="256 chains were used before that.", source="USED"),
        ],
        remedies=[
            Remedy(
                text="Let the guest run again, and find out who stopped it.",
                command="virsh resume cpx",
                current="paused",
                proposed="running",
            ),
            Remedy(
                text="A longer ring bridges 65 ms more of it.",
                command="ip link set tap0 txqueuelen 4000",
                current="1000",
                proposed="4000",
            ),
        ],
        bursts=[
            Burst(
                start_ns=START + SECOND,
                end_ns=START + SECOND + 41_000_000,
                packets=1771,
                depth=1000,
                limit=1000,
                running="qemu-io 2231",
            )
        ],
        flows=[(FLOW, 1771)],
        first_ns=START + SECOND,
        last_ns=START + SECOND + 41_000_000,
    )


def shaped() -> Finding:
    """A qdisc on the tap that dropped."""
    return Finding(
        code="R4",
        cause="tbf 8001: of tap0 let 200 kbit/s pass.",
        packets=348,
        certainty=Certainty.LIKELY,
        **RX,
    )


def interrupt() -> Finding:
    """A finding that costs no packet."""
    return Finding(
        code="S1",
        cause="rx0 was signalled and the guest did not come for 3.00 s.",
        packets=None,
        certainty=Certainty.POSSIBLE,
        **RX,
    )


def review() -> list[Review]:
    """One point that loses packets, one that is good to know."""
    return [
        Review(
            code="C-txqueuelen",
            text="The ring of 1,000 packets is full after 16 ms at 61,000 packets/s.",
            vm="cpx",
            device="net0",
            setting="txqueuelen of tap0",
            current="1000",
            proposed="4000",
            command="ip link set tap0 txqueuelen 4000",
            weight=2,
        ),
        Review(code="C-kernel", text="Known bug that nothing here meets.", weight=0),
    ]


def blind() -> BlindSpot:
    """What the guest's stack did."""
    return BlindSpot(
        text="What the guest did with what its driver took, the host cannot see.",
        vm="cpx",
        device="net0",
        packets=2221,
        proof="--guest-agent, or in the guest: nstat -az UdpRcvbufErrors",
    )


def lossy() -> Diagnosis:
    """1 771 of 4 000 packets towards a guest are lost; 348 of its own arrive."""
    return Diagnosis(
        source="run.vtrace",
        duration_ns=10 * SECOND,
        start_ns=START,
        anchor_ns=ANCHOR,
        ledger=[
            LedgerRow(
                **RX,
                hop="tap",
                queue="rx0",
                entered=4000,
                left=2229,
                dropped={"FULL_RING": 1771},
                occupancy_change=0,
                unexplained=0,
            ),
            LedgerRow(
                **RX,
                hop="guest ring",
                queue="rx0",
                entered=2229,
                left=2221,
                occupancy_change=8,
                unexplained=0,
                basis_out=Basis.DERIVED,
            ),
            LedgerRow(
                **RX,
                hop="guest",
                entered=2221,
                basis_dropped=Basis.UNSEEN,
                note="What becomes of packets in the guest its own counters tell.",
            ),
            LedgerRow(
                **TX,
                hop="tap",
                queue="tx0",
                entered=348,
                left=348,
                basis_out=Basis.COUNTERS,
                occupancy_change=0,
                unexplained=0,
            ),
        ],
        findings=[stopped()],
        flows=[
            FlowRow(
                flow=FLOW,
                **RX,
                packets=4000,
                delivered=2229,
                dropped={"R5d": 1771},
                bursts=stopped().bursts,
            )
        ],
        blind_spots=[blind()],
        review=review(),
        loss={"produced": 90_000, "received": 90_000, "lost": 0},
        notes=["sched:sched_switch was not probed: who ran instead is not known."],
    )


def healthy() -> Diagnosis:
    """Nothing is lost."""
    diagnosis = lossy()
    diagnosis.findings, diagnosis.flows, diagnosis.notes = [], [], []
    for row in diagnosis.ledger:
        row.dropped = {}
        if row.direction == "rx":
            row.entered = 4000
            row.left = None if row.hop == "guest" else 4000
    return diagnosis


def worst() -> Diagnosis:
    """Everything that a diagnosis can hold."""
    diagnosis = lossy()
    diagnosis.findings = [stopped(), shaped(), interrupt()]
    diagnosis.flows[0].dropped = {"R5d": 1771, "R4": 348}
    diagnosis.disagreements = [
        Disagreement(
            what="packets that tap0 dropped towards the guest",
            first="events REFUSE",
            first_count=1771,
            second="link/tap0 tx_dropped",
            second_count=1790,
            slack=2,
            meaning="A return of tun_net_xmit was missed.",
        )
    ]
    diagnosis.unexplained = 17
    diagnosis.loss = {"produced": 90_000, "received": 89_000, "lost": 1000}
    diagnosis.ledger[0] = replace(diagnosis.ledger[0], unexplained=17)
    return diagnosis


def hostile(text: str) -> Diagnosis:
    """The same with every text that others choose replaced."""
    diagnosis = worst()
    for row in (*diagnosis.ledger, *diagnosis.flows, *diagnosis.findings):
        row.vm = row.device = text
    for row in diagnosis.ledger:
        row.queue = row.note = text
        row.dropped = {text: 1}
    for row in diagnosis.flows:
        row.flow, row.dropped = text, {text: 1}
    diagnosis.findings[0].evidence = [Evidence(text=text, source=text, verb="drops", filter=text)]
    diagnosis.findings[0].remedies = [Remedy(text=text, command=text, current=text, proposed=text)]
    diagnosis.findings[0].bursts = [Burst(start_ns=1 << 63, end_ns=0, packets=1, running=text)]
    diagnosis.findings[0].flows = [(text, 3)]
    diagnosis.findings[1].cause = text
    diagnosis.blind_spots = [BlindSpot(text=text, vm=text, device=text, proof=text)]
    diagnosis.notes = [text]
    diagnosis.disagreements = [
        replace(one, what=text, first=text, second=text, meaning=text)
        for one in diagnosis.disagreements
    ]
    names = ("text", "vm", "device", "setting", "current", "proposed", "command")
    diagnosis.review = [replace(one, **dict.fromkeys(names, text)) for one in diagnosis.review]
    return diagnosis
