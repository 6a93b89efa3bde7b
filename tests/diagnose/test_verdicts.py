"""Every loss that was provoked is named, counted and explained; what was none raises nothing."""

import pytest

from tests.diagnose.conftest import Played
from tests.diagnose.plan import NAMES
from tests.diagnose.verdicts import diagnose, wrong


@pytest.mark.parametrize("name", NAMES)
def test_verdict_is_the_truth(played: Played, name: str) -> None:
    case = played.case(name)
    print(case)
    verdict = diagnose(played.path, case)
    assert wrong(case, verdict) == []


def test_guest_socket_is_a_blind_spot_without_the_guest(played: Played) -> None:
    case = played.case("guest-socket")
    verdict = diagnose(played.path, case)
    assert case.blind[0].packets > 0
    assert verdict.findings == []
    spots = [spot for spot in verdict.blind_spots if spot.vm == case.blind[0].vm]
    assert [spot.packets for spot in spots] == [case.truth["sent"]]
    assert all(spot.proof for spot in spots)
