"""A CSI frame as every decoder hands it over, and the note a decoder leaves for what is not a frame.

Values only: how bytes become a frame is in ``decoders``, how frames become windows in ``windows``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from tonescope_server.csi.tones import ToneTable, tone_table
from tonescope_server.types import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One CSI frame: the channel at one instant, from one transmitter to one node.

    Shapes:
        values: ``[n_tones]``, or ``[n_links, n_tones]`` where there are several antennas: a row for each
            receiving antenna, or, where ``header["links"]`` lists (receiving, transmitting) pairs, for each pair.

    Units:
        values: the chip's own (arbitrary) amplitude units; no gain is taken out.

    Attributes:
        values: complex64 channel values, or float32 amplitudes where the source kept no phase.
        node_id: the receiving node; 0 where the format names none.
        transmitter: MAC address or name of the sender; "" where the format names none.
        sequence: the source's own frame number; None where it has none.
        capture_time_ns: when the frame was taken, by the source's clock (``header["clock"]`` says ``"boot"``
            where it counts from power-up, else Unix time); None where not known.
        rssi_dbm: received signal strength; None where not known.
        noise_floor_dbm: None where not known.
        agc_gain: the receiver's automatic gain, in the chip's units; None where not known.
        format: name of the decoder that made it.
        header: whatever else the format says of the frame.
        tone_layout: id of the tone layout, where the frame itself settles it (its chip, bandwidth and length, or
            the indices that the file lists); "" where it does not: see ``Recording.labelled``.
    """

    values: npt.NDArray[Any]
    node_id: int = 0
    transmitter: str = ""
    sequence: int | None = None
    capture_time_ns: int | None = None
    rssi_dbm: float | None = None
    noise_floor_dbm: float | None = None
    agc_gain: float | None = None
    format: str = ""
    header: Mapping[str, Any] = field(default_factory=dict)
    tone_layout: str = ""

    @property
    def tones(self) -> ToneTable:
        """Give the identity of every tone: the layout's table, or one of unknown rows.

        Raises:
            UnknownToneLayoutError, ShapeError: ``tone_layout`` is no layout of this many tones.
        """
        return tone_table(self.tone_layout, self.n_tones)

    @property
    def amplitude(self) -> FloatArray:
        """Give the amplitude of every tone: float32, of the shape of ``values``."""
        values = self.values
        if values.dtype == np.float32:
            return cast(FloatArray, values)
        if values.dtype.kind == "c":
            values = np.abs(values)
        return values.astype(np.float32, copy=False)

    @property
    def unix_time_ns(self) -> int | None:
        """Give the capture time, nanoseconds since the Unix epoch; None where the source's clock is another."""
        return None if self.header.get("clock") == "boot" else self.capture_time_ns

    @property
    def n_tones(self) -> int:
        """Count the tones of one antenna."""
        return int(self.values.shape[-1])


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that is not a usable CSI frame: counted by kind, and passed over.

    Attributes:
        kind: a stable word: ``"vitals"``, ``"feature"``, ``"corrupt"``, ``"short"``, ``"non_finite"``, ….
        message: one line: where, and what was wrong.
        node_id: the node it came from; None where not known.
    """

    kind: str
    message: str
    node_id: int | None = None
