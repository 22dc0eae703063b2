"""What came in, counted: CSI by node, everything else by kind. No I/O and no clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tonescope_server.csi.decoders import adr018
from tonescope_server.csi.frames import Frame
from tonescope_server.errors import FrameError
from tonescope_server.ingest.udp import Packet

OVERSIZED = "oversized"
_SEQUENCES = 1 << 32
_LARGEST_GAP = 1 << 16  # further on, or behind: the node began to count anew
_MOST_HOSTS = 4


@dataclass
class NodeTraffic:
    """What one node sent.

    Attributes:
        frames: CSI frames.
        missing: sequence numbers that were left out: packets lost between the node and here.
        hosts: the addresses it sent from, the first few.
        rssi_dbm: of the last frame; None where not known.
    """

    frames: int = 0
    missing: int = 0
    hosts: list[str] = field(default_factory=list)
    rssi_dbm: float | None = None
    _last: int | None = None

    def take(self, frame: Frame, host: str) -> bool:
        """Take note of a frame; say whether it came from an address that the node had not sent from before."""
        self.frames += 1
        self.rssi_dbm = frame.rssi_dbm
        if frame.sequence is not None:
            step = 1 if self._last is None else (frame.sequence - self._last) % _SEQUENCES
            self.missing += step - 1 if 1 < step <= _LARGEST_GAP else 0
            if step <= _SEQUENCES - _LARGEST_GAP:  # not a straggler from before the last
                self._last = frame.sequence
        if host in self.hosts or len(self.hosts) >= _MOST_HOSTS:
            return False
        self.hosts.append(host)
        return True


@dataclass
class Traffic:
    """Everything that came in.

    Attributes:
        nodes: by node id.
        skipped: packets that are not usable CSI, by kind, in the words of the live contract; ``"oversized"`` for those
            too long to be any of them.
        moved: nodes that were heard from one more address, since somebody emptied this; with all their addresses.
    """

    nodes: dict[int, NodeTraffic] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    moved: dict[int, list[str]] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Count the CSI frames."""
        return sum(node.frames for node in self.nodes.values())

    @property
    def packets(self) -> int:
        """Count the packets."""
        return self.frames + self.skipped.total()

    def take(self, packet: Packet) -> Frame | str:
        """Decode and count a packet: the frame, or the kind of what is none."""
        try:
            if packet.oversized:
                raise FrameError("ADR-018 packet: too long", OVERSIZED)
            frame = adr018.decode(packet.data)
        except FrameError as error:
            self.skipped[error.kind] += 1
            return error.kind
        node = self.nodes.setdefault(frame.node_id, NodeTraffic())
        if node.take(frame, packet.host) and len(node.hosts) > 1:
            self.moved[frame.node_id] = node.hosts
        return frame
