"""Occlusion, against loops that hide one part at a time on the float64 model."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.errors import ParameterError

METHOD = "occlusion"
# float32 scores against float64 ones, relative to the scores.
TOLERANCE = 2e-6


def hidden_parts(groups, size, stride):
    """Return the groups that each part covers: of ``size`` neighbours, from one to the next by ``stride``."""
    parts, start = [], 0
    while start < groups and not (parts and max(parts[-1]) == groups - 1):
        parts.append(set(range(start, min(start + size, groups))))
        start += stride
    return parts


def by_definition(oracle, masks, fill, index=1):
    """Return the value of each part, and the cells: shared within a part, averaged over the parts that cover one."""
    x = oracle.x.astype(np.float64)
    flat, filled = x.reshape(len(x), -1), np.broadcast_to(fill, x.shape).reshape(len(x), -1)
    score = oracle.element(index)
    intact = score(x)
    units = np.zeros((len(x), len(masks)))
    cells, covers = np.zeros_like(flat), np.zeros(flat.shape[1])
    for i, mask in enumerate(masks):
        hidden = flat.copy()
        hidden[:, mask] = filled[:, mask]
        units[:, i] = intact - score(hidden.reshape(x.shape))
        cells[:, mask] += units[:, i : i + 1] / mask.sum()
        covers[mask] += 1
    return units, (cells / np.maximum(covers, 1)).reshape(x.shape)


def masks_of(index, groups, size=1, stride=1):
    return [np.isin(index, list(part)) for part in hidden_parts(groups, size, stride)]


def agrees(oracle, masks, filling, **parameters):
    units, cells = by_definition(oracle, masks, filling)
    scale = np.abs(oracle.output(oracle.x)).max()
    result = oracle.explainer.explain(oracle.x, METHOD, 1, **parameters)
    assert result.units.shape == units.shape
    np.testing.assert_allclose(result.units, units, atol=TOLERANCE * scale)
    np.testing.assert_allclose(result.cells, cells, atol=TOLERANCE * scale)
    np.testing.assert_allclose(result.tones, oracle.fold(cells), atol=2 * TOLERANCE * scale)
    assert np.abs(units).max() > 1e-3 * scale
    return result


def stated_baseline(oracle):
    stated = oracle.model.manifest.baseline
    if not stated.tones:
        return stated.value
    return np.array(stated.tones)[oracle.tone_of_cell].reshape(oracle.x.shape[1:])


def test_a_tone_is_worth_what_the_target_loses_without_it(oracle):
    masks = masks_of(oracle.tone_of_cell, oracle.n_tones)
    result = agrees(oracle, masks, stated_baseline(oracle))
    np.testing.assert_allclose(result.tones, result.units, rtol=1e-4, atol=1e-5)  # hidden one by one: its own value


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (2, 2), (4, 3), (5, 5)])
@pytest.mark.parametrize("name", ["scrambled", "mlp"])
def test_tones_hidden_together_share_their_value_and_overlaps_are_averaged(oracles, name, size, stride):
    oracle = oracles[name]
    masks = masks_of(oracle.tone_of_cell, oracle.n_tones, size, stride)
    agrees(oracle, masks, stated_baseline(oracle), size=size, stride=stride)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("name", ["scrambled", "conv_2d"])
def test_frames_are_hidden_in_the_order_of_the_cells(oracles, name, size, stride):
    oracle = oracles[name]
    frames = oracle.model.cells.frame_of_cell
    masks = masks_of(frames, oracle.model.cells.n_frames, size, stride)
    agrees(oracle, masks, stated_baseline(oracle), along="frame", size=size, stride=stride)


def test_patches_are_tones_by_frames(oracles):
    oracle = oracles["scrambled"]
    tones, frames = oracle.tone_of_cell, oracle.model.cells.frame_of_cell
    masks = [
        t & f
        for t in masks_of(tones, 10, 3, 2)
        for f in masks_of(frames, 5, 2, 2)  # the last patch is one frame short
    ]
    agrees(oracle, masks, stated_baseline(oracle), along="tone_frame", size=3, stride=2, patch_frames=2)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_slabs_lie_along_an_axis_of_the_input(oracles, axis):
    oracle = oracles["conv_2d"]
    sizes = oracle.x.shape[1:]
    index = np.indices(sizes)[axis - 1].ravel()
    masks = masks_of(index, sizes[axis - 1])
    result = agrees(oracle, masks, 0.0, along=axis)
    assert result.units.shape == (5, sizes[axis - 1])


def test_slabs_of_several_overlap(oracles):
    oracle = oracles["conv_2d"]
    index = np.indices((1, 8, 12))[2].ravel()
    agrees(oracle, masks_of(index, 12, 4, 2), 0.0, along=3, size=4, stride=2)


def bands_of(oracle, size, stride):
    """Slide over the tones by signed index, live and null ones apart, one field after the other."""
    parts = []
    tones = oracle.model.table.tones
    for name in dict.fromkeys(tone.training_field for tone in tones):
        for null in (False, True):
            rows = [t.row for t in tones if t.training_field == name and (t.kind == "null") == null]
            rows.sort(key=lambda row: row if tones[row].subcarrier_index is None else tones[row].subcarrier_index)
            places = hidden_parts(len(rows), min(size, len(rows)), stride) if rows else []
            parts += [np.isin(oracle.tone_of_cell, [rows[place] for place in part]) for part in places]
    return parts


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (4, 1), (8, 3), (8, 8)])
@pytest.mark.parametrize("name", ["conv_1d", "scrambled"])
def test_a_band_is_made_of_neighbours_in_frequency_and_overlaps_are_averaged(oracles, name, size, stride):
    oracle = oracles[name]
    masks = bands_of(oracle, size, stride)
    agrees(oracle, masks, stated_baseline(oracle), along="band", size=size, stride=stride)


def test_a_band_across_the_centre_lies_at_both_ends_of_the_table(oracles):
    """Row 55 of ruview56 is tone −9, row 1 is tone +1, and none of the tones between them was recorded."""
    oracle = oracles["conv_1d"]
    together = [set(oracle.tone_of_cell[mask].tolist()) for mask in bands_of(oracle, 2, 1)]
    assert {55, 1} in together
    units = oracle.explainer.explain(oracle.x, METHOD, 1, along="band", size=2).units
    hidden = oracle.x.copy()
    hidden[:, [55, 1]] = stated_baseline(oracle)
    lost = (oracle.output(oracle.x) - oracle.output(hidden))[:, 1]
    np.testing.assert_allclose(units[:, together.index({55, 1})], lost, atol=1e-5)


def test_what_a_band_is_worth_never_spreads_to_null_tones(oracles):
    oracle = oracles["conv_1d"]
    null = oracle.model.table.null_mask
    silent = oracle.x.copy()
    silent[:, null] = 0
    tones = oracle.explainer.explain(silent, METHOD, 1, along="band", size=8, fill="zero").tones
    assert not tones[:, null].any()
    assert (np.abs(tones[:, ~null]).max(axis=0) > 0).all()


def test_what_is_hidden_may_be_replaced_by_zero_or_the_tones_mean(oracles):
    oracle = oracles["scrambled"]
    masks = masks_of(oracle.tone_of_cell, 10)
    agrees(oracle, masks, 0.0, fill="zero")
    flat = oracle.x.reshape(5, -1).astype(np.float64)
    means = np.stack([flat[:, oracle.tone_of_cell == k].mean(axis=1) for k in range(10)], axis=1)
    agrees(oracle, masks, means[:, oracle.tone_of_cell].reshape(oracle.x.shape), fill="mean")


def test_every_tone_is_hidden_at_least_once(oracles):
    """Ten tones in threes, by threes: the last part is the tenth alone."""
    result = oracles["scrambled"].explainer.explain(oracles["scrambled"].x, METHOD, 1, size=3, stride=3)
    assert result.units.shape == (5, 4)
    assert (np.abs(result.tones) > 0).all()


def test_hiding_everything_takes_all_that_the_baseline_does_not_give(oracles):
    oracle = oracles["scrambled"]
    result = oracle.explainer.explain(oracle.x, METHOD, 1, along="frame", size=5, fill="zero")
    gone = oracle.output(oracle.x)[:, 1] - oracle.output(np.zeros((1, 10, 5)))[:, 1]
    np.testing.assert_allclose(result.units[:, 0], gone, atol=1e-5)
    np.testing.assert_allclose(result.tones.sum(axis=1), gone, atol=1e-5)


def test_the_predicted_class_is_that_of_the_intact_window(oracles):
    oracle = oracles["scrambled"]
    classes = oracle.output(oracle.x).argmax(axis=1)
    emptied = oracle.output(np.zeros_like(oracle.x)).argmax(axis=1)
    assert (classes != emptied).any()
    by_default = oracle.explainer.explain(oracle.x, METHOD, along="frame", size=5, fill="zero")
    named = oracle.explainer.explain(oracle.x, METHOD, classes, along="frame", size=5, fill="zero")
    np.testing.assert_allclose(by_default.units, named.units, atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"size": 11}, r"parameter 'size': expected at most 10, got 11"),
        ({"along": "band", "size": 11}, r"parameter 'size': expected at most 10, got 11"),
        ({"along": "frame", "size": 6}, r"parameter 'size': expected at most 5, got 6"),
        ({"along": "tone_frame", "patch_frames": 6}, r"parameter 'patch_frames': expected at most 5, got 6"),
        ({"along": 0}, r"parameter 'along': expected an axis from 1 to 2, got 0"),
        ({"along": 3}, r"parameter 'along': expected an axis from 1 to 2, got 3"),
        ({"along": "antenna"}, r"parameter 'along'"),
        ({"stride": 0}, r"parameter 'stride'"),
        ({"along": "link", "size": 2}, r"parameter 'size': expected at most 1, got 2"),
        ({"band_edges": [0.0, 0.5]}, r"parameter 'band_edges': expected it with along='time_frequency' only"),
        ({"patch_frames": 0}, r"parameter 'patch_frames'"),
    ],
)
def test_a_part_that_does_not_fit_is_refused_by_its_parameter(oracles, parameters, message):
    oracle = oracles["scrambled"]
    with pytest.raises(ParameterError, match=message) as caught:
        oracle.explainer.explain(oracle.x, METHOD, **parameters)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "what"),
    [
        ({"size": 1, "stride": 2}, r"tones 1, 3, 5, 7, 9 would"),
        ({"along": "band", "size": 2, "stride": 5}, r"tones "),
        ({"along": "frame", "size": 1, "stride": 2}, r"frames 1, "),
        ({"along": 3, "size": 2, "stride": 6}, r"slabs 2, 3, 4, 5, 8, 9, 10, 11 would"),
        ({"along": "tone_frame", "size": 1, "stride": 3}, r"tones 1, 2, 4, 5, "),
    ],
    ids=str,
)
def test_a_stride_that_leaves_something_unhidden_is_refused_and_names_it(oracles, parameters, what):
    oracle = oracles["conv_2d"] if parameters.get("along") == 3 else oracles["scrambled"]
    said = rf"^parameter 'stride': expected at most the size, {parameters['size']}, got {parameters['stride']}: {what}"
    with pytest.raises(ParameterError, match=said):
        oracle.explainer.explain(oracle.x, METHOD, **parameters)


def test_links_and_components_are_hidden_each_as_a_whole(oracles):
    oracle = oracles["complex"]
    for along in ("link", "component"):
        owner = getattr(oracle.model.cells, f"{along}_of_cell")
        result = agrees(oracle, masks_of(owner, 2), 0.0, along=along)
        assert result.units.shape == (5, 2)
    alone = oracles["conv_1d"].explainer.explain(oracles["conv_1d"].x, METHOD, 1, along="link")
    assert alone.units.shape == (5, 1)


def series_of(oracle):
    """Return the cells of each series in the order of frames: (series, frames)."""
    cells = oracle.model.cells
    keys = list(zip(cells.tone_of_cell, cells.link_of_cell, cells.component_of_cell, strict=True))
    found = {}
    for cell in np.argsort(cells.frame_of_cell, kind="stable"):
        found.setdefault(keys[cell], []).append(cell)
    return np.array(list(found.values()))


def without_frequencies(flat, filling, series, chosen):
    """Project every series' difference from the filling off the cosines and sines of the chosen frequencies."""
    frames = series.shape[1]
    t, hidden = np.arange(frames), flat.astype(np.float64).copy()
    for frequency in chosen:
        waves = [np.cos(2 * np.pi * frequency * t / frames), np.sin(2 * np.pi * frequency * t / frames)]
        for wave in waves:
            if wave @ wave > 1e-9:
                beyond = (flat - filling)[:, series]
                hidden[:, series] -= (beyond @ wave)[..., None] * wave / (wave @ wave)
    return hidden


@pytest.mark.parametrize("name", ["conv_1d", "scrambled", "complex"])
@pytest.mark.parametrize("fill", ["zero", "mean", "baseline"])
def test_frequencies_of_the_time_axis_are_taken_out_of_all_tones_at_once(oracles, name, fill):
    oracle = oracles[name]
    series, flat = series_of(oracle), oracle.x.reshape(5, -1).astype(np.float64)
    filling = np.zeros_like(flat)
    if fill == "baseline":
        filling += np.broadcast_to(stated_baseline(oracle), oracle.x.shape[1:]).ravel()
    if fill == "mean":
        for tone in range(oracle.n_tones):
            own = oracle.tone_of_cell == tone
            filling[:, own] = flat[:, own].mean(axis=1, keepdims=True)
    result = oracle.explainer.explain(oracle.x, METHOD, 1, along="time_frequency", fill=fill)
    frames = series.shape[1]
    score, units = oracle.element(1), []
    for frequency in range(frames // 2 + 1):
        hidden = without_frequencies(flat, filling, series, [frequency])
        units.append(score(oracle.x) - score(hidden.reshape(oracle.x.shape)))
    np.testing.assert_allclose(result.units, np.stack(units, axis=1), atol=5e-6 * np.abs(result.score).max())
    np.testing.assert_allclose(result.tones.sum(axis=1), result.units.sum(axis=1), atol=1e-5)


def test_a_frequencys_value_goes_to_the_tones_that_have_it(oracles):
    oracle = oracles["conv_1d"]
    x = np.full((1, 56, 6), 0.25, np.float32)
    x[0, 7] += 2 * np.cos(2 * np.pi * np.arange(6) / 6)
    x[0, 9] += 1 * np.cos(2 * np.pi * np.arange(6) / 6)
    x[0, 11] += np.cos(2 * np.pi * 2 * np.arange(6) / 6)
    result = oracle.explainer.explain(x, METHOD, 1, along="time_frequency")  # the baseline is 0.25
    value = result.units[0]
    np.testing.assert_allclose(result.tones[0, [7, 9]], [value[1] * 0.8, value[1] * 0.2], rtol=1e-4)
    np.testing.assert_allclose(result.tones[0, 11], value[2], rtol=1e-4)
    assert np.abs(np.delete(result.tones[0], [7, 9, 11])).max() < 1e-7


def test_energy_is_that_of_the_time_axis_also_at_the_highest_frequency(oracles):
    oracle = oracles["conv_1d"]
    x = np.full((1, 56, 6), 0.25, np.float32)
    x[0, 7] += np.cos(2 * np.pi * np.arange(6) / 6)  # energy 3
    x[0, 9] += np.cos(np.pi * np.arange(6))  # energy 6
    result = oracle.explainer.explain(x, METHOD, 1, along="time_frequency", band_edges=[0.1, 0.5])
    np.testing.assert_allclose(result.tones[0, [7, 9]], result.units[0, 0] * np.array([1, 2]) / 3, rtol=1e-4)


def test_bands_of_frequencies_are_given_by_edges_or_by_size(oracles):
    oracle = oracles["conv_2d"]  # 12 frames: 0, 1/12, … 6/12 cycles per frame
    flat, series = oracle.x.reshape(5, -1), series_of(oracle)
    result = oracle.explainer.explain(oracle.x, METHOD, 1, along="time_frequency", band_edges=[0.0, 0.05, 0.2, 0.5])
    for unit, chosen in enumerate([[0], [1, 2], [3, 4, 5, 6]]):
        hidden = without_frequencies(flat, np.zeros_like(flat), series, chosen)
        lost = (oracle.output(oracle.x) - oracle.output(hidden.reshape(oracle.x.shape)))[:, 1]
        np.testing.assert_allclose(result.units[:, unit], lost, atol=2e-5)
    pairs = oracle.explainer.explain(oracle.x, METHOD, 1, along="time_frequency", size=2, stride=1)
    assert pairs.units.shape == (5, 6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"band_edges": [0.1]}, "at least two rising cycles per frame"),
        ({"band_edges": [0.2, 0.1]}, "at least two rising cycles per frame"),
        ({"band_edges": [0.0, 0.6]}, "from 0 to 0.5"),
        ({"band_edges": [0.21, 0.22]}, r"got none from 0.21 to 0.22: the windows' spectrum has one every 0.2 cycles"),
        ({"size": 4}, r"parameter 'size': expected at most 3, got 4"),
        ({"stride": 2}, r"parameter 'stride': .*frequencies 1 would never be hidden"),
    ],
)
def test_bands_of_frequencies_that_there_are_not_are_refused(oracles, parameters, message):
    with pytest.raises(ParameterError, match=message):
        oracles["scrambled"].explainer.explain(oracles["scrambled"].x, METHOD, along="time_frequency", **parameters)
