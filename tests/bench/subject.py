"""What is measured: a CountNet, and windows of CSI that it was made for.

The published one where the shared folder is there, else the bundled one. Which of the two is said in the report.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tonescope_server import Explainer
from tonescope_server.cli.recordings import open_file, windows_of
from tonescope_server.demo import recording_path, store_path
from tonescope_server.types import FloatArray

WINDOWS = 128
_BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2].parent / "shared"


@dataclass(frozen=True)
class Subject:
    """A model and windows for it.

    Attributes:
        said: one line: which model and which windows.
        weights: its tensors by name.
        windows: normalised, ``(WINDOWS, rows, frames)``.
    """

    said: str
    path: Path
    explainer: Explainer
    weights: dict[str, FloatArray]
    windows: FloatArray


def count_net() -> Subject:
    """Return the CountNet that is measured."""
    shared = Path(os.environ.get("TONESCOPE_SHARED") or _BESIDE_THE_REPOSITORY) / "real" / "ruview"
    published = shared / "count_v1.safetensors"
    if published.is_file():
        recording = shared / "rec_1772470567081-20260302_165607.csi.jsonl"
        return _subject("the published count_v1", published, recording, "recording")
    return bundled()


def bundled() -> Subject:
    """Return the model that comes with the project."""
    return _subject("the bundled people_count", store_path() / "people_count" / "1", recording_path(), "manifest")


def _subject(name: str, path: Path, recording: Path, normalisation: str) -> Subject:
    explainer = Explainer.load(path)
    jobs, _ = windows_of(
        open_file(recording, explainer.host), explainer.model, explainer.host, normalise=normalisation, hop=1
    )
    windows = np.concatenate([job.cells for job in jobs[:WINDOWS]])
    weights = load_file(path if path.is_file() else next(path.glob("*.safetensors")))
    rows, frames = explainer.model.cells.shape
    said = f"{name} (input {rows} × {frames}), {len(windows)} windows of {recording.name}, z-scored, hop 1"
    return Subject(said, path, explainer, weights, windows)
