"""The simulator: what it promises about planted tones is what the demo's verdict rests on."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tonescope_server.csi.tones import ToneKind, tone_table
from tonescope_server.demo.simulator import (
    MAX_PEOPLE,
    N_TONES,
    NULL_ROWS,
    PLANTED_ROWS,
    PLANTED_SUBCARRIERS,
    SUBCARRIER_INDICES,
    TONE_LAYOUT,
    Scene,
    simulate,
)

LIVE_UNPLANTED = sorted(set(range(N_TONES)) - set(NULL_ROWS) - set(PLANTED_ROWS))


def test_the_tones_are_those_of_the_declared_layout() -> None:
    table = tone_table(TONE_LAYOUT)
    # An ESP32 leaves DC and the guard tones without an index only where they have none; here every row has one.
    known = [(tone.row, tone.subcarrier_index) for tone in table.tones if tone.subcarrier_index is not None]
    assert len(known) >= 52
    assert all(SUBCARRIER_INDICES[row] == index for row, index in known)
    assert tuple(table.null_rows) == NULL_ROWS


def test_planted_tones_are_data_tones_and_no_two_are_neighbours() -> None:
    table = tone_table(TONE_LAYOUT)
    assert [table.tones[row].subcarrier_index for row in PLANTED_ROWS] == list(PLANTED_SUBCARRIERS)
    assert {table.tones[row].kind for row in PLANTED_ROWS} == {ToneKind.DATA}
    assert np.diff(PLANTED_SUBCARRIERS).min() > 1


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    def digest(seed: int) -> str:
        captures = simulate(Scene(((3.0, 1), (3.0, 2)), seed))
        return hashlib.sha256(b"".join(c.iq.tobytes() + c.time_s.tobytes() for c in captures)).hexdigest()

    assert digest(5) == digest(5)
    assert digest(5) != digest(6)


def test_null_tones_are_exactly_zero_and_every_other_tone_is_alive() -> None:
    for capture in simulate(Scene(((5.0, 3),), seed=1)):
        alive = (capture.iq != 0).any(axis=(0, 2))
        assert not alive[list(NULL_ROWS)].any()
        assert alive.sum() == N_TONES - len(NULL_ROWS)
        assert np.abs(capture.iq.astype(int)).max() < 127, "the receiver saturates"


def test_people_change_no_byte_outside_the_planted_tones() -> None:
    for nobody, crowd in zip(
        simulate(Scene(((8.0, 0),), seed=3)), simulate(Scene(((8.0, MAX_PEOPLE),), seed=3)), strict=True
    ):
        differing = (nobody.iq != crowd.iq).any(axis=(0, 2))
        assert set(np.flatnonzero(differing)) == set(PLANTED_ROWS)
        assert np.array_equal(nobody.time_s, crowd.time_s)
        assert np.array_equal(nobody.rssi_dbm, crowd.rssi_dbm)


def test_over_independent_scenes_only_planted_tones_tell_how_many_people_there_are() -> None:
    people, level = [], []
    for seed in range(80):
        count = seed % (MAX_PEOPLE + 1)
        people.append(count)
        level.append(simulate(Scene(((3.0, count),), seed=90_000 + seed))[0].amplitude.mean(axis=0))
    correlation = np.array(
        [np.corrcoef(people, np.array(level)[:, row])[0, 1] for row in (*PLANTED_ROWS, *LIVE_UNPLANTED)]
    )
    planted, unplanted = np.split(np.abs(correlation), [len(PLANTED_ROWS)])
    assert planted.min() > 0.9
    # 80 scenes without any relation: |r| stays below 0.4 with probability 0.9998 for each tone.
    assert unplanted.max() < 0.4


def test_motion_shows_on_every_planted_tone_and_on_no_other() -> None:
    for capture in simulate(Scene(((10.0, 0), (10.0, 2)), seed=8)):
        spread = [capture.amplitude[(capture.people == n) & capture.steady].std(axis=0) for n in (0, 2)]
        ratio = spread[1] / np.where(spread[0] > 0, spread[0], 1.0)
        assert ratio[list(PLANTED_ROWS)].min() > 1.5
        assert ratio[LIVE_UNPLANTED].max() < 1.4


def test_people_come_in_gradually_and_those_moments_are_marked() -> None:
    for capture in simulate(Scene(((4.0, 0), (4.0, 1)), seed=2)):
        passing = capture.time_s[~capture.steady]
        assert 3.7 < passing.min() < passing.max() < 4.3
        assert capture.steady[0]
        assert capture.steady[-1]
        assert capture.people[0] == 0
        assert capture.people[-1] == 1


@pytest.mark.parametrize("schedule", [(), ((0.0, 1),), ((1.0, 4),), ((1.0, -1),)])
def test_an_impossible_schedule_is_refused(schedule: tuple[tuple[float, int], ...]) -> None:
    with pytest.raises(ValueError, match="schedule: expected spans"):
        simulate(Scene(schedule, seed=1))
