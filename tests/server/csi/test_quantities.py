"""What windows read off frames: parts of complex values, link by link, and phases with and without their line."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.csi.frames import Frame
from tonescope_server.csi.quantities import COMPONENTS, FrameReader, Phase, PhaseReader, Quantity
from tonescope_server.csi.tones import ToneTable, tone_table

ESP = tone_table("esp_lltf")
LIVE = ~ESP.null_mask
INDEX = np.array([tone.subcarrier_index for tone in ESP])


def channel(phase: np.ndarray) -> np.ndarray:
    """A channel of these phases, with nothing on null tones."""
    return np.where(LIVE, np.exp(1j * phase), 0).astype(np.complex64)


def read(values: np.ndarray, how: Phase, table: ToneTable = ESP) -> np.ndarray:
    return PhaseReader(table, how).read(values)


def test_the_wrapped_phase_is_the_angle_as_measured() -> None:
    phase = np.linspace(-9, 9, 64)
    expected = np.where(LIVE, np.angle(np.exp(1j * phase)), 0)
    np.testing.assert_allclose(read(channel(phase), Phase.WRAPPED), expected, atol=1e-5)  # complex64


def test_unwrapping_follows_the_spectrum_and_not_the_rows() -> None:
    # One radian a tone: 26 rows up, then the negative half. In the order of rows, the step from +26 to −26 would fold.
    unwrapped = read(channel(1.0 * INDEX), Phase.UNWRAPPED)
    np.testing.assert_allclose(np.diff(unwrapped[INDEX.argsort()][6:32]), 1.0, atol=1e-5)
    turns = (unwrapped - 1.0 * INDEX)[LIVE] / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns[0]), atol=1e-5)
    lowest = int(np.flatnonzero(INDEX == -26)[0])
    assert -np.pi < unwrapped[lowest] <= np.pi


@pytest.mark.parametrize(("offset", "slope"), [(0.0, 0.0), (2.5, 0.4), (-1.0, -1.1), (100.0, 1.4)])
def test_what_two_clocks_add_to_the_phase_is_taken_out_and_what_bends_stays(offset: float, slope: float) -> None:
    bend = 0.3 * np.sin(INDEX / 4)
    alone = read(channel(bend), Phase.SANITISED)
    np.testing.assert_allclose(read(channel(bend + offset + slope * INDEX), Phase.SANITISED), alone, atol=1e-4)
    line = np.polynomial.Polynomial.fit(INDEX[LIVE], bend[LIVE], 1)
    np.testing.assert_allclose(alone[LIVE], (bend - line(INDEX))[LIVE], atol=1e-5)


@pytest.mark.parametrize("how", list(Phase))
def test_tones_without_signal_have_no_phase(how: Phase) -> None:
    leaking = channel(1.0 * INDEX)
    leaking[0] = 3 + 4j  # the ESP32 may write something over DC
    assert not read(leaking, how)[ESP.null_mask].any()


def test_each_training_field_has_a_line_of_its_own() -> None:
    table = tone_table("esp128")
    index = np.array([tone.subcarrier_index for tone in table])
    lltf = np.arange(128) < 64
    phase = np.where(lltf, 0.5 + 0.2 * index, -2.0 - 0.9 * index)
    np.testing.assert_allclose(read(np.exp(1j * phase), Phase.SANITISED, table), 0, atol=1e-9)


def test_rows_of_no_known_index_are_read_in_their_own_order() -> None:
    phase = 0.7 + 0.5 * np.arange(12)
    np.testing.assert_allclose(read(np.exp(1j * phase), Phase.SANITISED, tone_table("unknown_12")), 0, atol=1e-12)


def test_each_link_has_a_line_of_its_own() -> None:
    both = np.stack([channel(0.3 * INDEX), channel(1 - 0.8 * INDEX)])
    np.testing.assert_allclose(read(both, Phase.SANITISED), 0, atol=1e-4)


@pytest.mark.parametrize("quantity", list(Quantity))
@pytest.mark.parametrize("links", [(), ("rx0", "rx1")])
def test_the_values_of_a_frame_lie_by_link_then_component_then_tone(quantity: Quantity, links: tuple[str, ...]) -> None:
    random = np.random.default_rng(0)
    values = (random.normal(size=(2, 64)) + 1j * random.normal(size=(2, 64))).astype(np.complex64)
    reader = FrameReader(ESP, quantity, links, Phase.WRAPPED)
    parts = reader.parts(Frame(values))
    rows = np.stack([reader.read(part) for part in parts]).reshape(2, max(len(COMPONENTS[quantity]), 1), 64)
    assert len(parts) == (1 if links else 2)
    assert rows.dtype == np.float32
    assert reader.n_columns == rows.size // len(parts)
    phase = np.where(LIVE, np.angle(values), 0)
    expected = {
        Quantity.AMPLITUDE: [np.abs(values)],
        Quantity.PHASE: [phase],
        Quantity.COMPLEX: [values.real, values.imag],
        Quantity.AMPLITUDE_PHASE: [np.abs(values), phase],
    }[quantity]
    np.testing.assert_allclose(rows, np.stack(expected, axis=1), rtol=1e-6, atol=1e-6)


def test_a_frame_that_cannot_be_read_says_why_in_a_word() -> None:
    amplitudes, one = np.ones(64, np.float32), np.ones(64, np.complex64)
    iq = FrameReader(ESP, Quantity.COMPLEX)
    assert (iq.refusal(amplitudes), iq.refusal(one)) == ("no_phase", "")
    linked = FrameReader(ESP, Quantity.COMPLEX, ("a", "b", "c"))
    assert linked.refusal(linked.parts(Frame(np.ones((2, 64), np.complex64)))[0]) == "links_2"
    assert linked.refusal(linked.parts(Frame(one))[0]) == "links_1"
    assert linked.refusal(linked.parts(Frame(np.ones((3, 64), np.complex64)))[0]) == ""


def test_statistics_are_measured_on_usable_frames_only() -> None:
    reader = FrameReader(tone_table("ruview56"), Quantity.COMPLEX)
    whole, nan = np.ones(64, np.complex64), np.full(64, np.nan, np.complex64)
    frames = [Frame(whole, 1), Frame(nan, 1), Frame(np.ones(128, np.complex64), 1), Frame(np.ones(64, np.float32), 2)]
    found = reader.columns(frames, (56, 64))
    assert {node: [row.shape for row in rows] for node, rows in found.items()} == {(1, 64): [(112,)]}
