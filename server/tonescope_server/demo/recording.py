"""The demo's scene, and how a simulated scene becomes a recording and windows.

What happens in the air is ``simulator``; reading recordings is the business of ``csi.decoders``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tonescope_server.demo.simulator import N_TONES, Capture, Scene, simulate

DEMO_SCENE = Scene(schedule=((4.0, 0), (4.0, 1), (4.0, 2), (4.0, 3), (2.0, 1)), seed=2024)
"""Eighteen seconds: an empty room, one person, two, three, and one left."""

RECORDING_START_S = 1_760_000_000.0
_ADR018_HEADER_BYTES = 20


def recording_lines(captures: Sequence[Capture]) -> Iterator[str]:
    """Yield the captures as ``raw_csi`` JSON lines, in the order in which the packets arrive."""
    frames = sorted((t, c.node_id, i, c) for c in captures for i, t in enumerate(c.time_s.tolist()))
    for time_s, node_id, i, capture in frames:
        line = {
            "timestamp": round(RECORDING_START_S + time_s, 6),
            "node_id": node_id,
            "magic": "0xC5110001",
            "size": _ADR018_HEADER_BYTES + 2 * N_TONES,
            "rssi": int(capture.rssi_dbm[i]),
            "type": "raw_csi",
            "iq_hex": capture.iq[i].tobytes().hex(),
            "subcarriers": N_TONES,
        }
        yield json.dumps(line) + "\n"


def demo_recording() -> bytes:
    """Return the bundled recording, simulated afresh: the same bytes each time."""
    return "".join(recording_lines(simulate(DEMO_SCENE))).encode()


def steady_windows(
    captures: Iterable[Capture], n_frames: int, hop: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Cut the captures into windows during which nobody comes or goes.

    Returns:
        Amplitudes, shape (n_windows, n_frames, 64), and the number of people, shape (n_windows,).
    """
    windows, people = [], []
    for capture in captures:
        amplitude = capture.amplitude
        for start in range(0, len(amplitude) - n_frames + 1, hop):
            span = slice(start, start + n_frames)
            here = capture.people[span]
            if capture.steady[span].all() and (here == here[0]).all():
                windows.append(amplitude[span])
                people.append(int(here[0]))
    return np.stack(windows), np.array(people, dtype=np.int64)
