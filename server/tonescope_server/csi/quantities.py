"""What a frame's values become in a window: amplitudes, phases, or both parts of complex values, link by link.

Windows of them are cut in ``windows``; how a model lays them out is in ``cells``.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.frames import Frame
from tonescope_server.csi.tones import ToneKind, ToneTable
from tonescope_server.types import FloatArray, IntArray


class Quantity(StrEnum):
    """What the cells of a window hold."""

    AMPLITUDE = "amplitude"
    PHASE = "phase"
    COMPLEX = "complex"
    AMPLITUDE_PHASE = "amplitude_phase"


class Phase(StrEnum):
    """What is done to the measured phase."""

    WRAPPED = "wrapped"
    UNWRAPPED = "unwrapped"
    SANITISED = "sanitised"


COMPONENTS: dict[Quantity, tuple[str, ...]] = {
    Quantity.AMPLITUDE: (),
    Quantity.PHASE: (),
    Quantity.COMPLEX: ("real", "imaginary"),
    Quantity.AMPLITUDE_PHASE: ("amplitude", "phase"),
}
"""The components that each tone has in each frame; none where it has but one value."""


class FrameReader:
    """Reads off frames the values that a model's windows hold.

    Args:
        table: the tones of a frame.
        quantity: what cells hold.
        links: names of the antenna links that a window holds together, in the order of a frame's rows; empty makes a
            window of each antenna by itself.
        phase: what is done to the phase, where there is one.
    """

    def __init__(
        self,
        table: ToneTable,
        quantity: Quantity = Quantity.AMPLITUDE,
        links: tuple[str, ...] = (),
        phase: Phase = Phase.SANITISED,
    ) -> None:
        self.n_tones = len(table)
        self.n_columns = self.n_tones * max(len(links), 1) * max(len(COMPONENTS[quantity]), 1)
        self._quantity = quantity
        self._links = links
        self._phases = PhaseReader(table, phase)

    def parts(self, frame: Frame) -> list[npt.NDArray[Any]]:
        """Split a frame into what makes windows of its own: its antennas, or all of them together.

        Shapes:
            each ``[n]``, or ``[n_links, n]`` where a window holds several links; n is the frame's own length.
        """
        values = frame.amplitude if self._quantity is Quantity.AMPLITUDE else frame.values
        if self._links:
            return [values.reshape(-1, values.shape[-1])]
        return [values] if values.ndim == 1 else list(values)

    def refusal(self, values: npt.NDArray[Any]) -> str:
        """Say in a word why a part cannot be read: ``"no_phase"``, ``"links_2"``; "" where it can."""
        if self._quantity is not Quantity.AMPLITUDE and values.dtype.kind != "c":
            return "no_phase"
        if self._links and len(values) != len(self._links):
            return f"links_{len(values)}"
        return ""

    def read(self, values: npt.NDArray[Any]) -> FloatArray:
        """Read one part, cut to the table's tones.

        Shapes:
            ``[n_tones]`` or ``[n_links, n_tones]`` → ``[n_columns]``: by link, then component, then tone.
        """
        if self._quantity is Quantity.AMPLITUDE:
            return values.reshape(-1)
        if self._quantity is Quantity.COMPLEX:
            read = np.stack([values.real, values.imag], axis=-2)
        elif self._quantity is Quantity.PHASE:
            read = self._phases.read(values)
        else:
            read = np.stack([np.abs(values), self._phases.read(values)], axis=-2)
        return read.reshape(-1).astype(np.float32, copy=False)

    def columns(self, frames: Iterable[Frame], lengths: Iterable[int]) -> dict[tuple[int, int], list[FloatArray]]:
        """Read every usable part of frames, by node and length: what statistics of a recording are measured on."""
        taken, rows = set(lengths), dict[tuple[int, int], list[FloatArray]]()
        for frame in frames:
            for part in self.parts(frame) if frame.n_tones in taken else ():
                cut = part[..., : self.n_tones]
                if np.isfinite(cut).all() and not self.refusal(cut):
                    rows.setdefault((frame.node_id, frame.n_tones), []).append(self.read(cut))
        return rows


class PhaseReader:
    """Reads phases off complex values, in radians; null tones have none, and read 0.

    ``wrapped``: the angle in (−π, π], as measured. ``unwrapped``: made continuous from tone to neighbouring tone,
    beginning with the lowest. ``sanitised``: unwrapped, less the straight line over the subcarrier index that fits it
    best. Each training field and each link is read by itself, over its live tones in the order of their indices;
    where no index is known, over all rows in theirs.

    The clocks of two commodity radios are not in step: every frame comes with an offset of its own (the carriers) and
    a slope of its own over the tones (the moment of sampling), which a line takes out, along with the bulk delay of
    the path; what bends in phase over the band stays. A slope of more than π over the widest gap between live tones
    cannot be told from a smaller one: over the two tones around DC, that is a delay of 0.8 µs.

    Source: Sen et al., "You are facing the Mona Lisa" (MobiSys 2012), section 4, whose line goes through the two
    outermost tones; least squares as in Kotaru et al., "SpotFi" (SIGCOMM 2015), algorithm 1.
    """

    def __init__(self, table: ToneTable, how: Phase) -> None:
        self._how = how
        self._null = table.null_mask
        self._fields = [] if how is Phase.WRAPPED else _fields(table)

    def read(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Read the phase of every tone: ``[…, n_tones]`` → the same, radians."""
        angle: npt.NDArray[np.float64] = np.angle(values).astype(np.float64)
        for rows, index in self._fields:
            phase = np.unwrap(angle[..., rows], axis=-1)
            if self._how is Phase.SANITISED:
                phase -= phase.mean(axis=-1, keepdims=True)
                phase -= (phase @ index / (index @ index))[..., None] * index
            angle[..., rows] = phase
        angle[..., self._null] = 0.0
        return angle


def _fields(table: ToneTable) -> list[tuple[IntArray, npt.NDArray[np.float64]]]:
    """List, by training field, the live rows in the order of the spectrum, and their indices less the mean."""
    live = [tone for tone in table if tone.kind is not ToneKind.NULL and tone.training_field != "csd"]
    if any(tone.subcarrier_index is None for tone in live):
        places = {"": [(tone.row, tone.row) for tone in live]}
    else:
        places = {}
        for tone in live:
            places.setdefault(tone.training_field, []).append((tone.subcarrier_index or 0, tone.row))
    found = []
    for field in places.values():
        index, rows = np.array(sorted(field), dtype=np.int64).T
        if len(rows) > 1:
            found.append((rows, index - index.mean()))
    return found
