"""The demonstration's assets: a people counter and a recording in which it is known which tones matter.

Here belong the simulator that made them, the training script and the files themselves. Only ``train`` needs jax.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from tonescope_server.demo.simulator import PLANTED_ROWS, PLANTED_SUBCARRIERS

__all__ = ["PLANTED_ROWS", "PLANTED_SUBCARRIERS", "recording_path", "store_path"]


def store_path() -> Path:
    """Return the folder of the bundled model store; its one model is ``people_count``, version ``1``."""
    return _asset("store")


def recording_path() -> Path:
    """Return the bundled recording: two nodes, eighteen seconds, nobody up to three people."""
    return _asset("recording.csi.jsonl")


def _asset(name: str) -> Path:
    # The wheel is always unpacked when installed, so an asset is a plain file.
    return Path(str(resources.files(__name__).joinpath(name)))
