from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import captures
from tonescope_server.csi.decoders._pcap import udp_payload

PACKET = captures.ethernet(b"payload")


def test_the_payload_of_a_datagram_is_taken_out_whatever_pads_it():
    assert udp_payload(PACKET) == b"payload"
    assert udp_payload(PACKET + b"\0" * 9) == b"payload"


def test_options_of_the_internet_header_are_stepped_over():
    longer = bytearray(PACKET[:34] + b"\1\1\1\1" + PACKET[34:])
    longer[14] = 0x46
    assert udp_payload(bytes(longer)) == b"payload"


@pytest.mark.parametrize(
    "packet",
    [
        PACKET[:-1],
        PACKET[:40],
        captures.ethernet(b"payload", protocol=6),
        PACKET[:12] + struct.pack(">H", 0x86DD) + PACKET[14:],
        PACKET[:14] + b"\x42" + PACKET[15:],
        b"",
    ],
)
def test_anything_else_has_no_payload(packet: bytes):
    assert udp_payload(packet) is None


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: PACKET[:12] + b"\x08\0" + tail))
def test_garbage_has_no_payload_or_some(packet: bytes):
    assert udp_payload(packet) is None or packet
