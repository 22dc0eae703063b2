"""Packets counted: CSI by node, everything else by kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonescope_server.csi.decoders.adr018 import OTHER_PACKETS, encode
from tonescope_server.csi.frames import Frame
from tonescope_server.ingest.traffic import Traffic
from tonescope_server.ingest.udp import Packet

VALUES = np.arange(64) - 1j * np.arange(64)


def packet(data: bytes, host: str = "10.0.0.2", oversized: bool = False) -> Packet:
    return Packet(data, 1_760_000_000_000_000_000, host, oversized)


def csi(node: int = 1, sequence: int = 0, **fields: int) -> bytes:
    return encode(VALUES, node_id=node, sequence=sequence, **fields)


def test_frames_are_decoded_and_counted_by_node() -> None:
    traffic = Traffic()
    for i in range(5):
        taken = traffic.take(packet(csi(3, i, rssi_dbm=-40 - i)))
        assert isinstance(taken, Frame)
        np.testing.assert_array_equal(taken.values, VALUES)
    traffic.take(packet(csi(200)))
    assert {name: node.frames for name, node in traffic.nodes.items()} == {3: 5, 200: 1}
    assert traffic.nodes[3].rssi_dbm == -44
    assert traffic.frames == traffic.packets == 6


def test_what_is_not_csi_is_counted_by_kind() -> None:
    traffic = Traffic()
    for magic, (kind, size) in OTHER_PACKETS.items():
        assert traffic.take(packet(magic.to_bytes(4, "little") + bytes((size or 40) - 4))) == kind
    garbage = {b"": "short", b"abc": "short", b"what is this?": "unknown_magic", csi()[:-1]: "short"}
    for data, kind in garbage.items():
        assert traffic.take(packet(data)) == kind
    assert traffic.take(packet(csi() + b"\0")) == "corrupt"
    assert traffic.take(packet(csi(), oversized=True)) == "oversized"
    expected = {kind: 1 for kind, _ in OTHER_PACKETS.values()}
    assert traffic.skipped == {**expected, "short": 3, "unknown_magic": 1, "corrupt": 1, "oversized": 1}
    assert traffic.frames == 0
    assert traffic.packets == len(expected) + 6


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_at_all_are_too_odd_to_be_counted(tail: bytes, with_magic: bool) -> None:
    traffic = Traffic()
    data = csi()[:4] + tail if with_magic else tail
    taken = traffic.take(packet(data))
    assert traffic.packets == 1
    assert isinstance(taken, Frame) or traffic.skipped == {taken: 1}


@pytest.mark.parametrize(
    ("sequences", "missing"),
    [
        ([5, 6, 7], 0),
        ([5, 9], 3),
        ([5, 9, 6, 7, 10], 3),  # stragglers are told as missing, and the newest stays the newest
        ([5, 5, 6], 0),
        ([(1 << 32) - 1, 0, 1], 0),
        ([(1 << 32) - 2, 1], 2),
        ([900_000, 0, 1, 3], 1),  # the node was switched off and on
        ([0, 900_000, 900_001], 0),
    ],
)
def test_numbers_that_were_left_out_are_packets_lost_on_the_way(sequences: list[int], missing: int) -> None:
    traffic = Traffic()
    for sequence in sequences:
        traffic.take(packet(csi(1, sequence)))
    assert traffic.nodes[1].missing == missing
    assert traffic.nodes[1].frames == len(sequences)


def test_a_node_that_is_heard_from_another_address_is_noted_once() -> None:
    traffic = Traffic()
    for host in ("10.0.0.2", "10.0.0.2", "10.0.0.9"):
        traffic.take(packet(csi(7), host))
    traffic.take(packet(csi(8), "10.0.0.3"))
    assert traffic.moved == {7: ["10.0.0.2", "10.0.0.9"]}
    traffic.moved.clear()
    traffic.take(packet(csi(7), "10.0.0.9"))
    assert traffic.moved == {}
    for i in range(100):
        traffic.take(packet(csi(7), f"10.0.1.{i}"))
    assert len(traffic.nodes[7].hosts) == 4
