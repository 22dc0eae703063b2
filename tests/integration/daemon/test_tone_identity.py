"""Who the rows of a result are, asked of a daemon: frequencies, declared rows beside tones, features by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tonescope
from tests.linear import write_linear

from ..conftest import RunningDaemon

RANDOM = np.random.default_rng(11)
SCRAMBLED = RANDOM.standard_normal((56, 20)).astype(np.float32)
FEATURES = RANDOM.standard_normal(3).astype(np.float32)
_SCRAMBLED = """
[input]
cell_order = "frame_tone"
[window]
frames = 20
[tones]
layout = "ruview56"
channel = 6
bandwidth_mhz = 20
"""
_FEATURES = """
[input]
cell_order = "feature"
feature_names = ["variance", "doppler", "entropy"]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("identity")
    write_linear(root / "scrambled", SCRAMBLED, _SCRAMBLED)
    return write_linear(root / "features", FEATURES, _FEATURES)


@pytest.fixture(scope="module")
def client(store: Path) -> Iterator[tonescope.Client]:
    from tonescope_server.config import Config

    running = RunningDaemon(Config.load(None, {"store": store, "listen": "127.0.0.1:0", "log_level": "warning"}))
    with tonescope.connect(running.address) as connected:
        yield connected
    running.close()


def test_every_tone_of_a_result_has_its_frequency(client: tonescope.Client) -> None:
    x = RANDOM.standard_normal((1, 56, 20)).astype(np.float32)
    table = client.explain(x, model="scrambled")[0].tone_table
    assert (table.rows_are, table.centre_mhz) == ("tones", 2437.0)
    assert [tone.frequency_mhz for tone in table.tones] == [
        2437.0 + 0.3125 * (tone.subcarrier_index or 0) for tone in table.tones
    ]
    assert client.model("scrambled").tone_table == table


def test_a_scrambled_model_is_served_as_trained_and_folded_to_physical_tones(client: tonescope.Client) -> None:
    x = RANDOM.standard_normal((2, 56, 20)).astype(np.float32)
    found = client.explain(x, model="scrambled", cells=True, declared_rows=True)
    by_cell = x * SCRAMBLED
    for each, cells in zip(found, by_cell, strict=True):
        assert each.score == pytest.approx(cells.sum(), rel=1e-4)
        # Flat cell i holds tone i mod 56: a frame at a time. Float32 sums in another order.
        np.testing.assert_allclose(each.tones, cells.reshape(20, 56).sum(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(each.declared_rows, cells.sum(axis=1), rtol=1e-4, atol=1e-5)
        assert np.abs(each.tones - np.asarray(each.declared_rows)).max() > 0.1


def test_declared_rows_are_sent_only_when_asked_for(client: tonescope.Client) -> None:
    x = RANDOM.standard_normal((1, 56, 20)).astype(np.float32)
    assert client.explain(x, model="scrambled")[0].declared_rows is None
    per_tone_only = client.explain(x, model="scrambled", method="subcarrier_saliency", declared_rows=True)[0]
    assert per_tone_only.declared_rows is None, "a method that is per tone only has nothing to fold"


def test_a_live_stream_sends_declared_rows_too(client: tonescope.Client) -> None:
    x = RANDOM.standard_normal((3, 56, 20)).astype(np.float32)
    with client.live(model="scrambled", windows=list(x), declared_rows=True, overload="back_pressure") as stream:
        found = list(stream)
    for each, values in zip(found, x, strict=True):
        np.testing.assert_allclose(each.declared_rows, (values * SCRAMBLED).sum(axis=1), rtol=1e-4, atol=1e-5)
    assert stream.opened is not None
    assert stream.opened.tone_table.centre_mhz == 2437.0


def test_a_model_of_features_says_so_and_is_attributed_by_feature(client: tonescope.Client) -> None:
    x = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    each = client.explain(x, model="features")[0]
    assert each.tone_table.rows_are == "features"
    np.testing.assert_allclose(each.tones, x[0] * FEATURES, rtol=1e-6)
    assert each.null_tone_share is None
    best = int(np.abs(x[0] * FEATURES).argmax())
    assert each.top[0].tone is not None
    assert each.top[0].tone.name == ["variance", "doppler", "entropy"][best]
    assert client.model("features").warnings == ()
