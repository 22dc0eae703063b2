"""Damaged packets and files: each is a frame or a typed refusal, and nothing is kept of it. ``make fuzz`` runs more."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests import captures, fuzz
from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, RecordingError
from tonescope_server.plugin.host import PluginHost

DECODERS = PluginHost.load().decoders
NEED_CSIREAD = {"intel5300", "atheros", "nexmon", "picoscenes"}
PACKETS, FILES = 1500, 150
every_format = pytest.mark.parametrize("name", sorted(fuzz.samples()))


def decoder_of(name: str) -> Decoder:
    if name in NEED_CSIREAD:
        pytest.importorskip("csiread", reason="csiread has no wheel for this machine")
    return DECODERS[name]


def as_file(name: str, packets: list[bytes]) -> bytes:
    """Put packets into a file as the format's tool does."""
    if name in ("esp_csi_csv", "esp32_csi_tool", "ruview_jsonl", "rvcsi"):
        return b"\n".join(packets)
    if name == "intel5300":
        return captures.intel5300_file(packets)
    if name == "atheros":
        return captures.atheros_file(packets)
    return captures.pcap(packets) if name == "nexmon" else b"".join(packets)


def test_every_packet_format_has_samples():
    assert set(fuzz.samples()) | fuzz.FILES_ALONE == set(DECODERS)


@every_format
def test_sound_samples_are_read(name: str):
    decoder = decoder_of(name)
    outcome = fuzz.Outcome()
    fuzz.put_through(decoder, iter(fuzz.samples()[name]), outcome)
    assert outcome.frames >= 1


@every_format
def test_mutated_packets_are_frames_or_typed_refusals(name: str):
    outcome = fuzz.Outcome()
    packets = fuzz.mutated(fuzz.samples()[name], PACKETS, np.random.default_rng(1))
    fuzz.put_through(decoder_of(name), packets, outcome)
    assert outcome.total == PACKETS
    assert len(outcome.refused) >= 2


@every_format
def test_mutated_packets_leave_no_memory_behind(name: str):
    decoder, random, sound = decoder_of(name), np.random.default_rng(2), fuzz.samples()[name]
    fuzz.put_through(decoder, fuzz.mutated(sound, 300, random), fuzz.Outcome())  # fills caches
    gc.collect()
    tracemalloc.start()
    try:
        fuzz.put_through(decoder, fuzz.mutated(sound, 300, random), fuzz.Outcome())
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 300 packets are 30 KiB of CSV to 600 KiB of FeitCSI. What may stay are tables of unknown layouts, 64 at most.
    assert kept < 1 << 20 if name == "adr018" else kept < 1 << 16


@every_format
def test_mutated_files_are_read_to_their_end_or_refused(name: str, tmp_path: Path):
    decoder, random = decoder_of(name), np.random.default_rng(3)
    sound = as_file(name, fuzz.samples()[name] * 3)
    read: list[Frame | Skipped] = []
    refused = 0
    for data in fuzz.mutated([sound], FILES, random):
        path = tmp_path / "mutated"
        path.write_bytes(data)
        decoder.recognises(path, data)
        try:
            read += decoder.read(path)
        except RecordingError:
            refused += 1
    assert any(isinstance(item, Frame) for item in read)
    assert any(isinstance(item, Skipped) for item in read)
    assert refused < FILES


def test_a_refusal_that_is_not_a_frame_error_is_seen():
    class Careless:
        name, summary = "careless", "raises what it should not"

        def decode(self, data: bytes) -> Frame:
            raise IndexError("index out of range")

    with pytest.raises(IndexError):
        fuzz.put_through(Careless(), iter([b"x"]), fuzz.Outcome())  # type: ignore[arg-type]  # it has no files


@pytest.mark.parametrize("frame", [Frame(np.full(3, np.nan, np.float32)), Frame(np.zeros(0, np.float32))])
def test_a_frame_that_is_none_is_seen(frame: Frame):
    with pytest.raises(AssertionError):
        fuzz.check(frame, b"")


@pytest.mark.parametrize("message", ["two\nlines", ""])
def test_a_refusal_that_is_not_one_line_is_seen(message: str):
    with pytest.raises(AssertionError):
        fuzz.check_refusal(FrameError(message))
