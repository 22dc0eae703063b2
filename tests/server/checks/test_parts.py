"""Windows of I and Q, of amplitude and phase, of several links: what is wrong is told as of plain ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.faults import captures_of
from tonescope_server.checks.data import check_windows
from tonescope_server.checks.parts import amplitudes, fitting_orders, like_declared
from tonescope_server.checks.series import Declared
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.tones import tone_table

FRAMES = 20
IQ, POLAR = ("real", "imaginary"), ("amplitude", "phase")
TABLE = tone_table("esp_lltf")
SIZES = {"tone": 64, "frame": FRAMES, "component": 2, "link": 2}


def declared(order, components=IQ, links=(), layout=TABLE):
    shape = tuple(SIZES[axis] for axis in order.split("_"))
    return Declared(cell_map(shape, layout, order, FRAMES, links, components))


def iq(seed=0):
    """I and Q of one link: (n, FRAMES, 2, 64)."""
    amplitude = captures_of(seed)[0].amplitude[: 20 * FRAMES]
    turned = amplitude * np.exp(1j * np.random.default_rng(seed).uniform(0, 2 * np.pi, amplitude.shape))
    return np.stack([turned.real, turned.imag], axis=1).reshape(-1, FRAMES, 2, 64).astype(np.float32)


def laid_out(windows, order):
    at = {"frame": 1, "component": 2, "tone": 3}
    return np.ascontiguousarray(windows.transpose(0, *(at[axis] for axis in order.split("_"))))


def codes(cells, known):
    return [finding.code for finding in check_windows(np.ascontiguousarray(cells), known)]


RIGHT = laid_out(iq(), "component_tone_frame")
SCRAMBLED = laid_out(iq(), "component_frame_tone").reshape(RIGHT.shape)


def with_row(cells, row, value):
    changed = cells.copy()
    changed[:, :, row] = value
    return changed


@pytest.mark.parametrize("order", ["component_tone_frame", "tone_frame_component", "frame_component_tone"])
def test_windows_laid_out_rightly_raise_no_alarm(order):
    assert codes(laid_out(iq(), order), declared(order)) == []


FAULTY = {
    "FRAME_MAJOR": SCRAMBLED,
    "TONES_ROLLED": np.roll(RIGHT, 1, axis=2),
    "CONSTANT_ROWS": with_row(RIGHT, 10, 3),
    "DUPLICATE_ROWS": with_row(RIGHT, 10, RIGHT[:, :, 11]),
    "DUPLICATE_FRAMES": np.repeat(RIGHT[..., ::2], 2, axis=3),
    "NO_SIGNAL": 0 * RIGHT,
}


@pytest.mark.parametrize("code", FAULTY)
def test_a_fault_of_i_and_q_is_told_as_itself(code):
    assert codes(FAULTY[code], declared("component_tone_frame")) == [code]


def test_windows_that_are_all_one_are_told():
    assert codes(np.repeat(RIGHT[:1], 20, axis=0), declared("component_tone_frame")) == ["DUPLICATE_FRAMES"]


def test_every_order_that_the_zeros_fit_is_named():
    known = declared("component_tone_frame")
    (finding,) = check_windows(SCRAMBLED, known)
    assert finding.remedy == 'input.cell_order = "component_frame_tone" or "frame_component_tone"'
    assert fitting_orders(SCRAMBLED, known.cells) == ["component_frame_tone", "frame_component_tone"]
    interleaved = laid_out(iq(), "tone_frame_component").reshape(RIGHT.shape)
    assert set(fitting_orders(interleaved, known.cells)) == {"tone_frame_component", "tone_component_frame"}


def test_orders_that_the_zeros_cannot_tell_from_the_declared_one_are_listed():
    assert like_declared(declared("component_frame_tone").cells) == ["frame_component_tone"]
    assert like_declared(declared("component_tone_frame").cells) == []


def test_amplitudes_are_checked_and_phases_are_not():
    windows = iq()
    polar = np.stack([np.hypot(windows[:, :, 0], windows[:, :, 1]), np.zeros_like(windows[:, :, 0])], axis=2)
    cells = laid_out(polar, "component_tone_frame")
    known = declared("component_tone_frame", POLAR)
    assert codes(cells, known) == []
    assert codes(np.roll(cells, 1, axis=2), known) == ["TONES_ROLLED"]


def test_a_link_is_told_by_its_name_and_what_all_share_once():
    both = np.stack([np.hypot(*iq(seed).transpose(2, 0, 3, 1)) for seed in (0, 1)], axis=1)
    known = declared("link_tone_frame", (), ("rx0", "rx1"))
    assert codes(both, known) == []
    one = both.copy()
    one[:, 1, 20] = 7
    (finding,) = check_windows(one, known)
    assert (finding.code, finding.message[:12]) == ("CONSTANT_ROWS", "link 'rx1': ")
    (finding,) = check_windows(with_row(both, 20, 7), known)
    assert finding.message.startswith("each link, as 'rx0': row 20 never changes")


def test_the_amplitude_of_i_and_q_is_their_modulus():
    (plane,) = amplitudes(RIGHT, declared("component_tone_frame").cells, "component_tone_frame")
    np.testing.assert_allclose(plane, np.hypot(RIGHT[:, 0], RIGHT[:, 1]), rtol=1e-6)


def test_z_scored_parts_are_not_taken_for_wrongly_normalised_amplitudes():
    z = (RIGHT - RIGHT.mean(axis=(0, 3), keepdims=True)) / (RIGHT.std(axis=(0, 3), keepdims=True) + 1e-6)
    known = replace(declared("component_tone_frame"), normalisation="recording")
    assert codes(z, known) == []
