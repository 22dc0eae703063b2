"""What makes a live stream survive its connection: what was sent, what was answered, what to send again and when.

No I/O, no clock and no locks here: the blocking client and the asyncio client drive the same code.

The promise, for frames and windows that carry a sequence number (the client numbers those that have none): within a
bounded buffer, nothing answered is answered again, and nothing unanswered is lost. A sent frame is kept until a window
that begins after it was answered, because the windows that follow may still need it; after a reconnection, frames are
sent again from the first frame of the last answered window, so that windows fall exactly where they fell before. Frames
of several lengths make windows of their own: then they are sent again from the first frame that windows of any length
still need, and the daemon is told where those of each length begin. (Not so where a node has several transmitters.)
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import grpc

from tonescope.fields import number
from tonescope.v1 import csi_pb2, live_pb2

_ADR018 = "adr018"
_ADR018_MAGIC = (0xC5110001).to_bytes(4, "little")
_ADR018_HEADER_BYTES = 20
# A wait that the clock of a thread can hold.
_LONGEST_S = 1e6
BATCH = 64

RETRIED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Status codes after which a stream is opened again: clients and proxies map a lost connection to any of these."""


@dataclass(frozen=True)
class Retry:
    """When to try again: ``first_s · 2ⁿ`` capped at ``cap_s``, times a random factor in [0.5, 1].

    Attributes:
        first_s: seconds before the first new attempt.
        cap_s: the longest wait between two attempts, seconds.
        give_up_after_s: seconds without a daemon after which the stream gives up; 0 means at once, infinity never.
        unanswered: how many connections in a row may be lost after something was sent and before anything was
            answered; after one more the stream gives up, as what it sends may be what ends them.
        wait_for_daemon: whether to keep trying where the very first attempt finds no daemon.

    Raises:
        ParameterError: one of the numbers is negative or none, or is to be finite and is not.
    """

    first_s: float = 0.1
    cap_s: float = 5.0
    give_up_after_s: float = 60.0
    unanswered: int = 20
    wait_for_daemon: bool = False

    def __post_init__(self) -> None:
        number("give_up_after_s", self.give_up_after_s, unit="seconds")
        number("first_s", self.first_s, most=_LONGEST_S, unit="seconds")
        number("cap_s", self.cap_s, most=_LONGEST_S, unit="seconds")
        number("unanswered", self.unanswered, unit="connections")

    def delay_s(self, attempt: int) -> float:
        """Choose the wait before attempt number ``attempt`` (1, 2, …)."""
        return min(self.cap_s, self.first_s * 2.0 ** min(attempt - 1, 32)) * random.uniform(0.5, 1.0)


@dataclass(frozen=True)
class LiveCounts:
    """What became of everything that was given to a stream.

    Attributes:
        sent: frames or windows sent for the first time.
        resent: sent again after a reconnection.
        answered: windows explained.
        failed: windows answered with a problem of their own.
        dropped: windows that the daemon dropped unexplained.
        rejected: refusals of frames that the daemon reported (the first of each kind and node).
        discarded: frames or windows that the client's full buffer gave up before they were sent.
        forgotten: those sent, unanswered, that its full buffer can no longer send again.
        repeated: explanations that came again after a reconnection, and were withheld.
        reconnects: connections opened again after one was lost; attempts that failed do not count.
        unaccounted: connections that took frames or windows and ended before the daemon had summed them up: what it
            skipped of those is not known, nor what it dropped after its last word.
    """

    sent: int = 0
    resent: int = 0
    answered: int = 0
    failed: int = 0
    dropped: int = 0
    rejected: int = 0
    discarded: int = 0
    forgotten: int = 0
    repeated: int = 0
    reconnects: int = 0
    unaccounted: int = 0


Key = tuple[int, str]


@dataclass(slots=True)
class _Item:
    order: int
    key: Key
    first: int | None
    last: int | None
    message: csi_pb2.Frame | csi_pb2.Window
    length: int = 0
    sent: bool = False


@dataclass(slots=True)
class _Source:
    """One node and transmitter: what was sent and may still be needed, and the last window that was answered.

    ``firsts`` has, by length of the frames, the first frame of the last window that was answered; 0 is a length that is
    not known.
    """

    kept: deque[_Item] = field(default_factory=deque)
    next_number: int = 0
    answered: tuple[int, int] | None = None
    firsts: dict[int, int] = field(default_factory=dict)


class Outbox:
    """Frames or windows of one stream: waiting, then sent and kept until they are no longer needed.

    Args:
        capacity: the most frames or windows held; beyond it the oldest go, and are counted.

    Attributes:
        lengths: of the frames that windows are made of; empty where that is not known.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.counts = LiveCounts()
        self.lengths: frozenset[int] = frozenset()
        self._waiting: deque[_Item] = deque()
        self._sources: dict[Key, _Source] = {}
        self._order = 0
        self._size = 0
        self._again: set[tuple[int, int, int]] = set()

    def __len__(self) -> int:
        return self._size

    @property
    def waiting(self) -> int:
        """How many wait to be sent."""
        return len(self._waiting)

    def count(self, **more: int) -> None:
        """Add to the counts."""
        self.counts = replace(self.counts, **{name: getattr(self.counts, name) + n for name, n in more.items()})

    def add(self, message: csi_pb2.Frame | csi_pb2.Window) -> None:
        """Take a frame or window, number it where it has no number, and make room where there is none."""
        self._order += 1
        self._waiting.append(self._identify(message))
        self._size += 1
        while self._size > self.capacity:
            self._evict()

    def take(self, most: int = BATCH) -> live_pb2.LiveRequest | None:
        """Take the next frames or windows to send, all of one kind; None where nothing waits."""
        if not self._waiting:
            return None
        kind = type(self._waiting[0].message)
        batch: list[_Item] = []
        while self._waiting and len(batch) < most and type(self._waiting[0].message) is kind:
            batch.append(self._waiting.popleft())
        again = sum(item.sent for item in batch)
        self.count(sent=len(batch) - again, resent=again)
        for item in batch:
            self._keep(item)
        return _request(batch)

    def answered(self, node_id: int, first: int | None, last: int | None) -> bool:
        """Note that a window was answered. False where it had been answered before, and is to be withheld."""
        if first is None or last is None:
            return True
        if (node_id, first, last) in self._again:
            self._again.discard((node_id, first, last))
            self.count(repeated=1)
            return False
        for source, item in self._find(node_id, last):
            source.answered = (first, last)
            source.firsts[item.length] = first
            self._release(source)
        return True

    def rewind(self) -> list[live_pb2.NodeSequence]:
        """Line up everything unanswered to be sent again; say, by node, up to where everything was answered."""
        kept = sorted((i for s in self._sources.values() for i in s.kept), key=lambda item: item.order)
        for source in self._sources.values():
            source.kept.clear()
        self._waiting.extendleft(reversed(kept))
        ends = {key: s.answered for key, s in self._sources.items() if s.answered is not None}
        self._again = {(key[0], *end) for key, end in ends.items()}
        nodes = [key[0] for key in self._sources]
        # A position is one number a node: with several transmitters a node it would be ambiguous, and `_again` serves.
        return [
            live_pb2.NodeSequence(node_id=key[0], sequence=end[1], first_by_length=self._sources[key].firsts)
            for key, end in ends.items()
            if nodes.count(key[0]) == 1
        ]

    def _identify(self, message: csi_pb2.Frame | csi_pb2.Window) -> _Item:
        if isinstance(message, csi_pb2.Window):
            return self._identify_window(message)
        key = (message.node_id, message.transmitter)
        length = frame_length(message)
        if message.HasField("sequence"):
            return _Item(self._order, key, message.sequence, message.sequence, message, length)
        if message.WhichOneof("payload") == "raw":
            node, number = _inside(message)
            return _Item(self._order, (node, message.transmitter), number, number, message, length)
        message.sequence = self._number(key)
        return _Item(self._order, key, message.sequence, message.sequence, message, length)

    def _identify_window(self, message: csi_pb2.Window) -> _Item:
        key = (message.node_id, "")
        if not message.HasField("last_sequence"):
            message.last_sequence = self._number(key)
        if not message.HasField("first_sequence"):
            message.first_sequence = message.last_sequence
        return _Item(self._order, key, message.first_sequence, message.last_sequence, message)

    def _number(self, key: Key) -> int:
        source = self._sources.setdefault(key, _Source())
        number, source.next_number = source.next_number, source.next_number + 1
        return number

    def _keep(self, item: _Item) -> None:
        item.sent = True
        if item.last is None:
            self._size -= 1  # nobody can tell whether it was answered, so it is never sent twice
            return
        self._sources.setdefault(item.key, _Source()).kept.append(item)

    def _find(self, node_id: int, last: int) -> list[tuple[_Source, _Item]]:
        """Find the frame or window that ends with this number, and whose it is; none where it is not kept."""
        for key, source in self._sources.items():
            if key[0] == node_id:
                for item in source.kept:
                    if item.last == last:
                        return [(source, item)]
        return []

    def _release(self, source: _Source) -> None:
        """Let go of what no later window needs: frames before any that one needs, or windows up to the answered one."""
        kept, answered = source.kept, source.answered
        if not kept or answered is None:
            return
        if isinstance(kept[0].message, csi_pb2.Window):
            orders = [item.order + 1 for item in kept if item.last == answered[1]]
        elif sum(key[0] == kept[0].key[0] for key in self._sources) > 1:
            # Such a node cannot be told where the frames of each length begin: see ``rewind``.
            orders = [item.order for item in kept if item.last == answered[0]]
        else:
            orders = self._needed(source)
        while orders and kept and kept[0].order < min(orders):
            kept.popleft()
            self._size -= 1

    def _needed(self, source: _Source) -> list[int]:
        """Find, for each length of frames that windows are made of, the first frame that a later window needs."""
        found: dict[int, int] = {}
        for item in source.kept:
            if not self.lengths or not item.length or item.length in self.lengths:
                found.setdefault(item.length, item.order)
                if item.last == source.firsts.get(item.length):
                    found[item.length] = item.order
        return list(found.values())

    def _evict(self) -> None:
        self._size -= 1
        holding = [source for source in self._sources.values() if source.kept]
        if holding:
            source = min(holding, key=lambda each: each.kept[0].order)
            source.kept.popleft()
            self.count(forgotten=1)
            self._release(source)
        elif self._waiting.popleft().sent:
            self.count(forgotten=1)
        else:
            self.count(discarded=1)


def frame_length(frame: csi_pb2.Frame) -> int:
    """Count the tones of a frame; 0 where that is inside raw bytes of a format that is not known here."""
    if frame.WhichOneof("payload") == "raw":
        known = len(frame.raw) >= _ADR018_HEADER_BYTES and frame.raw[:4] == _ADR018_MAGIC
        return int.from_bytes(frame.raw[6:8], "little") if known and frame.format in ("", _ADR018) else 0
    shape = frame.iq.shape[:-1] if frame.WhichOneof("payload") == "iq" else frame.amplitude.shape
    return int(shape[-1]) if shape else 0


def _inside(frame: csi_pb2.Frame) -> tuple[int, int | None]:
    """Read node and number out of a raw frame whose format is known to carry them in its header."""
    raw = frame.raw
    if len(raw) >= _ADR018_HEADER_BYTES and raw[:4] == _ADR018_MAGIC and frame.format in ("", _ADR018):
        return raw[4], int.from_bytes(raw[12:16], "little")
    return frame.node_id, None


def _request(batch: Iterable[_Item]) -> live_pb2.LiveRequest:
    messages = [item.message for item in batch]
    frames = [each for each in messages if isinstance(each, csi_pb2.Frame)]
    if frames:
        return live_pb2.LiveRequest(frames=live_pb2.FrameBatch(frames=frames))
    windows = [each for each in messages if isinstance(each, csi_pb2.Window)]
    return live_pb2.LiveRequest(windows=live_pb2.WindowBatch(windows=windows))
