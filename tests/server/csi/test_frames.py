from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tonescope_server.csi.frames import Frame


def test_the_amplitude_of_complex_values_is_their_modulus():
    frame = Frame(np.array([3 + 4j, -5j], dtype=np.complex64))
    assert frame.amplitude.tolist() == [5.0, 5.0]
    assert frame.amplitude.dtype == np.float32


def test_amplitudes_are_given_as_they_are():
    values = np.array([1.5, 0.0], dtype=np.float32)
    assert Frame(values).amplitude is values


@pytest.mark.parametrize("values", [np.arange(3), np.arange(3, dtype=np.float64), np.arange(3, dtype=np.complex128)])
def test_the_amplitude_is_float32_whatever_the_values_are(values: np.ndarray):
    amplitude = Frame(values).amplitude
    assert amplitude.dtype == np.float32
    assert amplitude.tolist() == [0, 1, 2]


def test_tones_are_counted_for_one_antenna():
    assert Frame(np.zeros(64, np.complex64)).n_tones == 64
    assert Frame(np.zeros((3, 64), np.complex64)).n_tones == 64


@pytest.mark.parametrize(("clock", "known"), [("unix", 7), ("boot", None), (None, 7)])
def test_a_clock_that_counts_from_power_up_tells_no_unix_time(clock: str | None, known: int | None):
    frame = Frame(np.zeros(1, np.float32), capture_time_ns=7, header={"clock": clock} if clock else {})
    assert frame.unix_time_ns == known
    assert frame.capture_time_ns == 7


def test_a_frame_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Frame(np.zeros(1, np.float32)).node_id = 3  # type: ignore[misc]
