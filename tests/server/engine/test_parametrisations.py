"""Windows as numbers: their transposes against central differences, what they keep, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.csi.cells import CellMap, cell_map
from tonescope_server.csi.tones import tone_table
from tonescope_server.engine.parametrisations import ImageSpectrum, TimeSpectrum, parametrisation_of
from tonescope_server.errors import MethodNotApplicableError, ParameterError

RANDOM = np.random.default_rng(11)
TONES = cell_map((64, 6), tone_table("esp_lltf"), "tone_frame", 6)
FRAMES = cell_map((7, 64), tone_table("esp_lltf"), "frame_tone", 7)
PARTS = cell_map(
    (2, 2, 30, 5), tone_table("intel5300_ht20"), "link_component_tone_frame", 5, ("a", "b"), ("real", "imaginary")
)
REFERENCES = {id(layout): RANDOM.standard_normal((40, *layout.shape)) for layout in (TONES, FRAMES, PARTS)}


def spaces() -> list[object]:
    time = [TimeSpectrum(each, REFERENCES[id(each)].astype(np.float32)) for each in (TONES, FRAMES, PARTS)]
    return [*time, TimeSpectrum(TONES), ImageSpectrum((1, 9, 8)), ImageSpectrum((7, 8, 3))]


@pytest.mark.parametrize("space", spaces())
@pytest.mark.parametrize("shifted", [False, True])
def test_gradients_of_numbers_are_those_of_central_differences(space, shifted: bool) -> None:
    """Of f = Σ cos of the window: curved, so that a wrong place shows. Error of the differences: 1e-5² · f''' / 6."""
    numbers = RANDOM.standard_normal((2, *space.shape))

    def view():  # type: ignore[no-untyped-def]
        return space.view([np.random.default_rng(i) for i in range(2)] if shifted else None)

    def value(at: np.ndarray) -> np.ndarray:
        return np.cos(view().see(space.signals(at))).reshape(2, -1).sum(axis=1)

    window = view().see(space.signals(numbers))
    gradient = space.pull_back(view().pull_back(-np.sin(window)))
    for _ in range(20):
        at = tuple(int(RANDOM.integers(size)) for size in space.shape)
        step = np.zeros_like(numbers)
        step[(slice(None), *at)] = 1e-5
        measured = (value(numbers + step) - value(numbers - step)) / 2e-5
        np.testing.assert_allclose(gradient[(slice(None), *at)], measured, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layout", [TONES, FRAMES])
def test_null_tones_are_exactly_zero_whatever_the_reference_holds_there(layout: CellMap) -> None:
    space = TimeSpectrum(layout, REFERENCES[id(layout)].astype(np.float32))
    window = space.view(None).see(space.signals(RANDOM.standard_normal((3, *space.shape))))
    assert not window.reshape(3, -1)[:, layout.null_cells].any()
    assert window.reshape(3, -1)[:, ~layout.null_cells].all()


def test_whitened_starts_have_the_mean_and_the_covariance_of_the_reference() -> None:
    mixing = RANDOM.standard_normal((64, 64))
    frames = RANDOM.standard_normal((500 * 6, 64)) @ mixing + 3.0
    reference = frames.reshape(500, 6, 64).transpose(0, 2, 1)
    space = TimeSpectrum(TONES, reference.astype(np.float32))
    n = 4000
    window = space.view(None).see(space.signals(RANDOM.standard_normal((n, *space.shape))))
    free = ~TONES.table.null_mask
    drawn = window.transpose(0, 2, 1).reshape(-1, 64)[:, free]
    wanted = np.cov(frames[:, free].T, bias=True)
    # The standard error of a covariance is about its size / √(n · frames).
    np.testing.assert_allclose(drawn.mean(axis=0), frames[:, free].mean(axis=0), atol=0.5)
    assert np.linalg.norm(np.cov(drawn.T) - wanted) < 0.06 * np.linalg.norm(wanted)


def test_a_roll_is_a_roll_of_at_most_so_many_frames() -> None:
    space = TimeSpectrum(TONES, roll=2)
    signal = space.signals(RANDOM.standard_normal((1, *space.shape)))
    still = space.view(None).see(signal)[0]
    seen = set()
    for seed in range(60):
        rolled = space.view([np.random.default_rng(seed)]).see(signal)[0]
        seen |= {by for by in range(-3, 4) if np.array_equal(np.roll(still, by, axis=1), rolled)}
    assert seen == {-2, -1, 0, 1, 2}


def test_an_image_that_is_not_shifted_is_the_middle_of_its_canvas() -> None:
    space = ImageSpectrum((1, 8, 10), jitter=2, scaling=0.2)
    signal = space.signals(RANDOM.standard_normal((1, *space.shape)))
    rows, columns = (of - size for of, size in zip(space.canvas, (8, 10), strict=True))
    assert (rows % 2, columns % 2) == (0, 0)
    middle = signal[0, :, rows // 2 : rows // 2 + 8, columns // 2 : columns // 2 + 10]
    np.testing.assert_allclose(space.view(None).see(signal)[0], middle, atol=1e-12)


def test_images_have_unit_variance_at_the_start_and_amplitudes_that_fall_with_frequency() -> None:
    space = ImageSpectrum((1, 24, 24), jitter=0, scaling=0)
    drawn = space.signals(RANDOM.standard_normal((500, *space.shape)))[:, 0]
    assert drawn.std() == pytest.approx(1.0, abs=0.1)  # a few low frequencies hold most of it
    power = (np.abs(np.fft.fft2(drawn)) ** 2).mean(axis=0)
    assert power[0, 2] / power[0, 8] == pytest.approx(16, rel=0.3)


def test_what_has_no_parametrisation_is_refused() -> None:
    flat = cell_map((5,), tone_table("unknown_5"), "feature", 1)
    image = cell_map((1, 6, 8), tone_table("unknown_6"), "tone_frame", 8)
    windows = np.zeros((3, 1, 6, 8), np.float32)
    with pytest.raises(MethodNotApplicableError, match=r"windows of several frames, or images, got flat input \(5,\)"):
        parametrisation_of(flat, None, 2, 4, 0.1)
    with pytest.raises(ParameterError, match="reference: expected none for an image"):
        parametrisation_of(image, windows, 2, 4, 0.1)
    with pytest.raises(ParameterError, match=r"reference: expected windows \(64, 6\), got \(3, 1, 6, 8\)"):
        parametrisation_of(TONES, windows, 2, 4, 0.1)
    with pytest.raises(ParameterError, match="shifts: expected"):
        parametrisation_of(TONES, None, -1, 4, 0.1)
