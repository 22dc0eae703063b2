"""Packets as a RuView JSON-lines recording, which ``csi.decoders.recordings`` reads back."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tonescope_server.csi.decoders.adr018 import HEADER_BYTES, OTHER_PACKETS
from tonescope_server.csi.frames import Frame
from tonescope_server.errors import ConfigurationError
from tonescope_server.ingest.udp import Packet

_KINDS = frozenset(kind for kind, _ in OTHER_PACKETS.values())
_FLUSH_S = 1.0


class Recorder:
    """Appends packets to a file: CSI, and the other packets that are known on the port. Garbage is not kept.

    Args:
        path: the file; it is begun where it is not there, and continued where it is.

    Raises:
        ConfigurationError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = 0
        self._flushed = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            if self._file.tell() and not self._ends_well():
                self._file.write(b"\n")  # a line that was cut off spoils no other
        except OSError as error:
            raise _unwritable(path, error) from error

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, packet: Packet, taken: Frame | str) -> None:
        """Write a packet, with what it was taken for.

        Raises:
            ConfigurationError: the file cannot be written any more.
        """
        if isinstance(taken, str) and taken not in _KINDS:
            return
        record = _csi(packet, taken) if isinstance(taken, Frame) else _other(packet, taken)
        try:
            self._file.write(json.dumps(record).encode() + b"\n")
            if time.monotonic() - self._flushed >= _FLUSH_S:
                self._file.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self.records += 1

    def close(self) -> None:
        """Write what is left.

        Raises:
            ConfigurationError: it cannot be written.
        """
        try:
            self._file.close()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _ends_well(self) -> bool:
        self._file.seek(-1, os.SEEK_END)
        return self._file.read(1) == b"\n"


def _csi(packet: Packet, frame: Frame) -> dict[str, Any]:
    """Make the record of a CSI packet. As the other recorders, zero stands for a level that is not known."""
    record = {
        "timestamp": round(packet.time_ns * 1e-9, 6),
        "node_id": frame.node_id,
        "magic": f"0x{int.from_bytes(packet.data[:4], 'little'):08X}",
        "size": len(packet.data),
        "rssi": int(frame.rssi_dbm or 0),
        "noise_floor": int(frame.noise_floor_dbm or 0),
        "type": "raw_csi",
        "sequence": frame.sequence,
        **frame.header,
        "iq_hex": packet.data[HEADER_BYTES:].hex(),
        "subcarriers": frame.n_tones,
    }
    return record | ({"antennas": len(frame.values)} if frame.values.ndim > 1 else {})


def _other(packet: Packet, kind: str) -> dict[str, Any]:
    return {
        "timestamp": round(packet.time_ns * 1e-9, 6),
        "magic": f"0x{int.from_bytes(packet.data[:4], 'little'):08X}",
        "size": len(packet.data),
        "type": kind,
        "payload_hex": packet.data[4:].hex(),
    }


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"--record {path}: cannot be written: {(error.strerror or str(error)).lower()}")
