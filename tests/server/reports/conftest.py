"""Windows of the public recordings, laid out as the public pipeline laid them out, and rightly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tonescope_server import Explainer
from tonescope_server.checks import series_of
from tonescope_server.csi.decoders import open_recording
from tonescope_server.demo import store_path

RECORDINGS = {"rec": "rec_1772470567081-20260302_165607.csi.jsonl", "pretrain": "pretrain-1775182186.csi.jsonl"}
HOP = 10


@pytest.fixture(scope="session")
def count_v1(shared):
    return Explainer.load(shared / "real/ruview/count_v1.safetensors")


@pytest.fixture(scope="session")
def demo_model():
    return Explainer.load("people_count", store=store_path())


@pytest.fixture(scope="session")
def frames_of(shared, count_v1):
    """Give the longest stream of a recording, cut to (windows, 20 frames, 56 tones); in "pretrain" that is node 1."""

    def frames(name, hop=HOP):
        series = series_of(open_recording(shared / "real/ruview" / RECORDINGS[name], count_v1.host.decoders))[0]
        amplitude = series.amplitude[:, :56]
        return np.stack([amplitude[start : start + 20] for start in range(0, len(amplitude) - 19, hop)])

    return frames


@pytest.fixture
def write(tmp_path, frames_of):
    """Write a recording's windows to a file, frame by frame under the label [56, 20], or as the label says."""

    def write(name, layout="scrambled", kind="npy", hop=HOP):
        frames = frames_of(name, hop)
        cells = frames.reshape(-1, 56, 20) if layout == "scrambled" else frames.transpose(0, 2, 1)
        if kind == "npy":
            np.save(tmp_path / f"{name}.npy", cells)
            return tmp_path / f"{name}.npy"
        path = tmp_path / f"{name}.paired.jsonl"
        records = ({"csi": each.ravel().tolist(), "csi_shape": [56, 20], "n_persons_mode": 1} for each in cells)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write
