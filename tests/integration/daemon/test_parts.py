"""Windows of complex values and of several antenna links, made of frames by a daemon, and folded to tones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tonescope
from tests.linear import write_linear
from tonescope_server.config import Config
from tonescope_server.csi.quantities import Phase, PhaseReader
from tonescope_server.csi.tones import tone_table

from ..conftest import RunningDaemon

N_FRAMES, N_TONES = 4, 56
RANDOM = np.random.default_rng(17)
IQ = RANDOM.standard_normal((N_FRAMES, 2, N_TONES)).astype(np.float32)
LINKED = RANDOM.standard_normal((2, 2, N_TONES, N_FRAMES)).astype(np.float32)
PHASES = RANDOM.standard_normal((2, N_TONES, N_FRAMES)).astype(np.float32)
AMPLITUDES = RANDOM.standard_normal((N_TONES, N_FRAMES)).astype(np.float32)
REST = f"""
[window]
frames = {N_FRAMES}
[tones]
layout = "ruview56"
channel = 1
"""
NULL = tone_table("ruview56").null_mask


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    write_linear(root / "iq", IQ, f'[input]\nquantity = "complex"\ncell_order = "frame_component_tone"{REST}')
    linked = '[input]\nquantity = "complex"\nlinks = ["rx0", "rx1"]\ncell_order = "link_component_tone_frame"'
    write_linear(root / "linked", LINKED, linked + REST)
    phases = '[input]\nquantity = "amplitude_phase"\nphase = "sanitised"\ncell_order = "component_tone_frame"'
    write_linear(root / "phases", PHASES, phases + REST)
    write_linear(root / "running", IQ, f"""
[input]
quantity = "complex"
cell_order = "frame_component_tone"
[normalisation]
kind = "running"
{REST}""")  # fmt: skip
    return write_linear(root / "plain", AMPLITUDES, f'[input]\ncell_order = "tone_frame"{REST}')


@pytest.fixture(scope="module")
def client(store: Path) -> Iterator[tonescope.Client]:
    running = RunningDaemon(Config.load(None, {"store": store, "listen": "127.0.0.1:0", "log_level": "warning"}))
    with tonescope.connect(running.address) as connected:
        yield connected
    running.close()


def channel(*shape: int) -> np.ndarray:
    """Complex gains with nothing on null tones."""
    values = RANDOM.standard_normal((*shape, N_TONES)) + 1j * RANDOM.standard_normal((*shape, N_TONES))
    return np.where(NULL, 0, values).astype(np.complex64)


def explained(client: tonescope.Client, model: str, frames: Any, **options: Any) -> tuple[list[Any], Any]:
    sent = [tonescope.Frame(iq=each, sequence=i, transmitter="ap") for i, each in enumerate(frames)]
    with client.live(model=model, frames=sent, overload="back_pressure", parts=True, **options) as stream:
        return list(stream), stream


def test_i_and_q_of_frames_are_folded_to_tones_and_kept_apart_on_request(client: tonescope.Client) -> None:
    frames = channel(N_FRAMES)
    (each,), stream = explained(client, "iq", frames)
    cells = np.stack([frames.real, frames.imag], axis=1) * IQ  # (frames, components, tones)
    assert each.score == pytest.approx(cells.sum(), rel=1e-4)
    np.testing.assert_allclose(each.tones, cells.sum(axis=(0, 1)), rtol=1e-4, atol=1e-5)
    assert each.parts.shape == (1, 2, N_TONES)
    np.testing.assert_allclose(each.parts[0], cells.sum(axis=0), rtol=1e-4, atol=1e-5)
    assert stream.opened.tone_table.components == ("real", "imaginary")
    assert stream.opened.tone_table.links == ()
    assert stream.opened.tone_table.centre_mhz == 2412
    assert each.null_tone_share == 0
    assert (each.transmitter, each.link) == ("ap", None)


def test_several_links_make_one_window_whose_tones_are_named_once(client: tonescope.Client) -> None:
    frames = channel(N_FRAMES, 2)
    (each,), stream = explained(client, "linked", frames)
    cells = np.stack([frames.real, frames.imag], axis=2).transpose(1, 2, 3, 0) * LINKED
    np.testing.assert_allclose(each.tones, cells.sum(axis=(0, 1, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(each.parts, cells.sum(axis=3), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(each.parts.sum(axis=(0, 1)), each.tones, rtol=1e-4, atol=1e-5)
    assert stream.opened.tone_table.links == ("rx0", "rx1")
    assert len(each.tone_table) == N_TONES
    assert each.link is None


def test_without_links_each_antenna_makes_windows_of_its_own_that_say_so(client: tonescope.Client) -> None:
    frames = channel(N_FRAMES, 2)
    found, _ = explained(client, "plain", frames)
    assert [each.link for each in found] == [0, 1]
    for each in found:
        cells = np.abs(frames[:, each.link]).T * AMPLITUDES
        np.testing.assert_allclose(each.tones, cells.sum(axis=1), rtol=1e-4, atol=1e-5)


def test_phases_reach_the_model_without_what_two_clocks_add(client: tonescope.Client) -> None:
    frames = channel(N_FRAMES)
    index = np.array([tone.subcarrier_index for tone in tone_table("ruview56")])
    turned = frames * np.exp(1j * (0.9 - 0.02 * index))
    phase = PhaseReader(tone_table("ruview56"), Phase.SANITISED).read(frames)
    cells = np.stack([np.abs(frames), phase]).transpose(0, 2, 1) * PHASES
    (each,), stream = explained(client, "phases", frames)
    np.testing.assert_allclose(each.parts[0], cells.sum(axis=2), rtol=1e-3, atol=1e-4)  # angles of complex64
    assert stream.opened.tone_table.components == ("amplitude", "phase")
    (same,), _ = explained(client, "phases", turned)
    # A phase near ±π may be unwrapped the other way once a line is added: that moves whole turns, seen per tone.
    np.testing.assert_allclose(same.parts[0, 0], each.parts[0, 0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients", "occlusion", "saliency", "lrp"])
def test_every_method_folds_complex_windows_to_tones(client: tonescope.Client, method: str) -> None:
    x = np.stack([channel(N_FRAMES).real, channel(N_FRAMES).imag], axis=1).astype(np.float32)[None]
    each = client.explain(x, model="iq", method=method, parts=True, cells=True)[0]
    assert each.tones.shape == (N_TONES,)
    if each.cells is not None:
        np.testing.assert_allclose(each.parts[0], each.cells.sum(axis=0), rtol=1e-4, atol=1e-5)
    by_hand = {"saliency": np.abs(IQ).sum(axis=(0, 1))}.get(method, (x[0] * IQ).sum(axis=(0, 1)))
    np.testing.assert_allclose(each.tones, by_hand, rtol=1e-3, atol=1e-4)


def test_running_statistics_are_of_each_component(client: tonescope.Client) -> None:
    frames = channel(2 * N_FRAMES) + np.where(NULL, 0, 5 - 3j)
    first, second = explained(client, "running", frames)[0]
    values = np.stack([frames.real, frames.imag], axis=1)
    for each, seen in ((first, values[:N_FRAMES]), (second, values)):
        z = (seen[-N_FRAMES:] - seen.mean(axis=0)) / (seen.std(axis=0) + 1e-6)
        np.testing.assert_allclose(each.parts[0], (z * IQ).sum(axis=0), rtol=1e-3, atol=1e-3)
        assert each.normalisation == "running"


def test_a_recordings_statistics_have_a_value_for_each_component(client: tonescope.Client) -> None:
    frames = channel(N_FRAMES)
    mean, std = np.full(2 * N_TONES, 0.5), np.full(2 * N_TONES, 2.0)
    (each,), _ = explained(client, "iq", frames, normalise="recording", statistics=[(mean, std)])
    z = (np.stack([frames.real, frames.imag], axis=1) - 0.5) / (2.0 + 1e-6)
    np.testing.assert_allclose(each.parts[0], (z * IQ).sum(axis=0), rtol=1e-4, atol=1e-4)


def test_frames_that_no_such_window_can_be_made_of_are_counted_and_told(client: tonescope.Client) -> None:
    amplitudes = [tonescope.Frame(amplitude=np.ones(N_TONES, np.float32), sequence=i) for i in range(3)]
    one_link = [tonescope.Frame(iq=channel(), sequence=i, node_id=1) for i in range(2)]
    with client.live(model="linked", frames=[*amplitudes, *one_link], overload="back_pressure") as stream:
        assert list(stream) == []
    assert stream.summary is not None
    assert stream.summary.frames_skipped == {"no_phase": 3, "links_1": 2}
    said = [notice.message for notice in stream.notices() if notice.code == "FRAMES_SKIPPED"]
    assert any("'links_1'" in text and "complex 2-link frames of 56, 64 tones" in text for text in said)


def test_a_frame_of_another_length_keeps_only_the_layouts_tones(client: tonescope.Client) -> None:
    longer = np.concatenate([channel(N_FRAMES, 2), np.full((N_FRAMES, 2, 8), 9 + 9j, np.complex64)], axis=2)
    (each,), _ = explained(client, "linked", longer)
    kept = longer[..., :N_TONES]
    cells = np.stack([kept.real, kept.imag], axis=2).transpose(1, 2, 3, 0) * LINKED
    np.testing.assert_allclose(each.parts, cells.sum(axis=3), rtol=1e-4, atol=1e-5)


def test_the_manifest_of_such_a_model_says_what_its_windows_hold(client: tonescope.Client) -> None:
    detail = client.model("linked")
    assert detail.tone_table.links == ("rx0", "rx1")
    assert detail.tone_table.components == ("real", "imaginary")
    assert detail.manifest["input"]["cell_order"] == "link_component_tone_frame"
    assert client.model("phases").warnings == ()
