"""The CSV that Espressif's boards print: esp-csi in its two forms, and the ESP32-CSI-Tool's.

All three are lines ``CSI_DATA,…,[…]``: named fields, then integers in pairs, imaginary before real. Lines of
other kinds (boot messages, headers) are passed over. Gain correction is offered, never applied unasked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tonescope_server.csi.decoders import Decoder
from tonescope_server.csi.decoders._lines import numbered_lines
from tonescope_server.csi.decoders.adr018 import channel_values
from tonescope_server.csi.frames import Frame, Skipped
from tonescope_server.errors import FrameError, ParameterError, ShortFrameError
from tonescope_server.marker import hookimpl

# Both ESP32 families print the radio header's fields in this order.
_RADIO_FIELDS = (
    *("mac", "rssi", "rate", "sig_mode", "mcs", "bandwidth", "smoothing", "not_sounding", "aggregation", "stbc"),
    *("fec_coding", "sgi", "noise_floor", "ampdu_cnt", "channel", "secondary_channel", "local_timestamp", "ant"),
    *("sig_len", "rx_state"),
)
_ESP32_FIELDS = ("type", "id", *_RADIO_FIELDS, "len", "first_word")
_ESP32_C5_C6_FIELDS = (
    *("type", "id", "mac", "rssi", "rate", "noise_floor", "fft_gain", "agc_gain", "channel", "local_timestamp"),
    *("sig_len", "rx_state", "len", "first_word"),
)
_CSI_TOOL_FIELDS = ("type", "role", *_RADIO_FIELDS, "real_time_set", "real_timestamp", "len")
_TEXT_FIELDS = frozenset({"type", "mac", "role"})
_ALIASES = {"seq": "id"}

# The ESP32-CSI-Tool prints the first 128 integers (the LLTF) of a longer buffer and gives the buffer's
# length.
_CSI_TOOL_PRINTED = 128
_CLOCK_PERIOD_US = 1 << 32
_LARGEST_FIELD = 9e9  # seconds, microseconds of 32 bits and counters all stay below

# A `CSI_DATA` line up to its list; what its list holds is what tells the two families apart.
_LINE = re.compile(rb'^CSI_DATA,[^\["\r\n]*"?\[([^\]\r\n]*)', re.MULTILINE)


class _CsvForm:
    """What the forms share: a line's fields by name, its integers, and the frame they make."""

    name: str
    summary: str
    _separator: str | None
    _forms: tuple[Sequence[str], ...]

    def decode(self, data: bytes) -> Frame:
        """Decode one line; which form it is follows from its number of fields.

        Raises:
            ShortFrameError: fewer integers than ``len`` announces.
            FrameError: not a CSI line, or damaged.
        """
        return self._decode(data, None)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the first CSI line is written as this format writes it."""
        match = _LINE.search(head)
        return match is not None and (b"," in match[1]) == (self._separator == ",")

    def read(self, path: Path) -> Iterator[Frame | Skipped]:
        """Read a log: CSI lines as frames, damaged ones and others as ``Skipped``."""
        columns: list[str] | None = None
        clock = _Clock()
        previous: Frame | None = None
        for number, line in numbered_lines(path):
            where = f"{path.name}:{number}"
            if line is not None and line.startswith(b"type,"):
                columns = _columns(line)
            elif line is None or not line.startswith(b"CSI_DATA,"):
                yield Skipped("not_csi", f"{where}: expected a CSI_DATA line")
            else:
                try:
                    frame = self._decode(line, columns)
                    if _is_same_reception(previous, frame):
                        yield Skipped("duplicate", f"{where}: the same reception as the line before")
                    else:
                        yield clock.unwrapped(frame)
                    previous = frame
                except FrameError as error:
                    yield Skipped(error.kind, f"{where}: {error}")

    def _decode(self, data: bytes, columns: Sequence[str] | None) -> Frame:
        fields, numbers = _split(data, self._separator, columns, self._forms)
        self._check_length(fields, len(numbers))
        if min(numbers) < -32_768 or max(numbers) > 32_767:
            raise FrameError("CSI line: expected 16-bit integers, got one out of range")
        return self._frame(fields, channel_values(np.array(numbers, dtype=np.int16)))

    def _check_length(self, fields: Mapping[str, Any], got: int) -> None:
        announced = fields.get("len", got)
        if got == 0 or got % 2:
            raise ShortFrameError(f"CSI line: expected pairs of integers, got {got} integers")
        if got < announced:
            raise ShortFrameError(f"CSI line: expected {announced} integers, got {got}")
        if got > announced:
            raise FrameError(f"CSI line: expected {announced} integers, got {got}")

    def _frame(self, fields: dict[str, Any], values: Any) -> Frame:
        agc = fields.get("agc_gain")
        micros = fields.get("local_timestamp")
        return Frame(
            values,
            transmitter=fields.get("mac", ""),
            sequence=fields.get("id"),
            capture_time_ns=None if micros is None else micros * 1000,
            rssi_dbm=_dbm(fields.get("rssi")),
            noise_floor_dbm=_dbm(fields.get("noise_floor")),
            agc_gain=None if agc is None else float(agc),
            format=self.name,
            header={**fields, "clock": "boot", "first_word_invalid": bool(fields.get("first_word", 0))},
        )


class EspCsiCsvDecoder(_CsvForm):
    """Lines of Espressif's esp-csi: ESP32, S2, S3, C3 and the form of C5, C6."""

    name = "esp_csi_csv"
    summary = "CSV of Espressif's esp-csi, in both its forms"
    _separator = ","
    _forms = (_ESP32_FIELDS, _ESP32_C5_C6_FIELDS)


class Esp32CsiToolDecoder(_CsvForm):
    """Lines of the ESP32-CSI-Tool, with or without their header line."""

    name = "esp32_csi_tool"
    summary = "CSV of the ESP32-CSI-Tool"
    _separator = None
    _forms = (_CSI_TOOL_FIELDS,)

    def _check_length(self, fields: Mapping[str, Any], got: int) -> None:
        if not (got == _CSI_TOOL_PRINTED < fields.get("len", got)):
            super()._check_length(fields, got)

    def _frame(self, fields: dict[str, Any], values: Any) -> Frame:
        frame = super()._frame(fields, values)
        seconds = fields.get("real_timestamp")
        clock = "unix" if fields.get("real_time_set") else "boot"
        return replace(
            frame,
            capture_time_ns=frame.capture_time_ns if seconds is None else round(seconds * 1e9),
            # Every chip this tool runs on overwrites the first four bytes of the buffer.
            header={**frame.header, "clock": clock, "first_word_invalid": True},
        )


def gain_factor(agc: float, fft: float, agc_reference: float, fft_reference: float) -> float:
    """Give the factor that brings an amplitude to the reference gain.

    Source: Espressif's gain steps of 1 dB (AGC) and 0.25 dB (FFT):
    ``10 ^ (−((agc − agc₀) + (fft − fft₀) / 4) / 20)``.
    """
    decibels = (agc - agc_reference) + (fft - fft_reference) / 4
    return float(10.0 ** (-decibels / 20))


class GainCorrection:
    """Bring the frames of each stream to one gain: the first frame's, or the one given.

    Args:
        agc: reference AGC gain; None takes the first frame's.
        fft: reference FFT gain; likewise.
    """

    def __init__(self, agc: float | None = None, fft: float | None = None) -> None:
        if (agc is None) != (fft is None):
            raise ParameterError(f"gain reference: expected both agc and fft or neither, got {agc} and {fft}")
        self._given = None if agc is None or fft is None else (agc, fft)
        self._references: dict[tuple[int, str], tuple[float, float]] = {}

    def apply(self, frame: Frame) -> Frame:
        """Give the frame at the reference gain; ``header["gain_factor"]`` says by what it was multiplied.

        Raises:
            FrameError: the frame carries no AGC and FFT gain.
        """
        fft = frame.header.get("fft_gain")
        if frame.agc_gain is None or fft is None:
            raise FrameError("gain correction: expected agc_gain and fft_gain, got neither")
        gains = (frame.agc_gain, float(fft))
        reference = self._given or self._references.setdefault((frame.node_id, frame.transmitter), gains)
        factor = gain_factor(*gains, *reference)
        values = (frame.values * factor).astype(frame.values.dtype)
        return replace(frame, values=values, header={**frame.header, "gain_factor": factor})


class _Clock:
    """Carry the boards' 32-bit microsecond clock, which starts again every 71 minutes, on without a jump."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._turns: dict[str, int] = {}

    def unwrapped(self, frame: Frame) -> Frame:
        micros = frame.header.get("local_timestamp")
        if micros is None or frame.capture_time_ns != micros * 1000:
            return frame
        key = frame.transmitter
        if self._last.get(key, micros) - micros > _CLOCK_PERIOD_US // 2:
            self._turns[key] = self._turns.get(key, 0) + 1
        self._last[key] = micros
        if key not in self._turns:
            return frame
        return replace(frame, capture_time_ns=(micros + self._turns[key] * _CLOCK_PERIOD_US) * 1000)


def _is_same_reception(previous: Frame | None, frame: Frame) -> bool:
    """Say whether a line repeats the one before; where lines are numbered, their numbers tell that later."""
    if previous is None or frame.sequence is not None or "local_timestamp" not in frame.header:
        return False
    same_time = previous.header.get("local_timestamp") == frame.header["local_timestamp"]
    same_sender = previous.transmitter == frame.transmitter
    return same_time and same_sender and np.array_equal(previous.values, frame.values)


def _columns(line: bytes) -> list[str]:
    names = [name.strip() for name in line.decode("utf-8", "replace").split(",")]
    return [_ALIASES.get(name, name) for name in names][:-1]  # the last one is the list


def _split(
    data: bytes, separator: str | None, columns: Sequence[str] | None, forms: Sequence[Sequence[str]]
) -> tuple[dict[str, Any], list[int]]:
    """Split a line into its named fields and its integers."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise FrameError("CSI line: expected ASCII text, got other bytes") from error
    before, opened, rest = text.partition("[")
    inside, closed, _ = rest.partition("]")
    if not before.startswith("CSI_DATA,"):
        raise FrameError("CSI line: expected CSI_DATA, fields and a list in brackets, got another line", "not_csi")
    if not opened:
        raise FrameError("CSI line: expected CSI_DATA, fields and a list in brackets, got no list")
    if not closed:
        raise ShortFrameError("CSI line: expected a list that ends in ']', got a line cut short")
    words = [word.strip() for word in before.rstrip(' ,"').split(",")]
    names = _names(len(words), columns, forms)
    try:
        numbers = [int(word) for word in inside.split(separator)] if inside.strip() else []
    except ValueError as error:
        raise FrameError("CSI line: expected integers in the list, got something else") from error
    return {name: _value(name, word) for name, word in zip(names, words, strict=True)}, numbers


def _names(n: int, columns: Sequence[str] | None, forms: Sequence[Sequence[str]]) -> Sequence[str]:
    if columns is not None and len(columns) == n:
        return columns
    for form in forms:
        if len(form) == n:
            return form
    expected = " or ".join(str(len(form)) for form in forms)
    raise FrameError(f"CSI line: expected {expected} fields before the list, got {n}")


def _value(name: str, word: str) -> Any:
    if name in _TEXT_FIELDS:
        return word
    try:
        value = _seconds(word) if name == "real_timestamp" else int(word)
    except ValueError as error:
        raise FrameError(f"CSI line: expected a number in field {name!r}, got {word[:20]!r}") from error
    if not abs(value) < _LARGEST_FIELD:
        raise FrameError(f"CSI line: expected a smaller number in field {name!r}, got {word[:20]!r}")
    return value


def _seconds(word: str) -> float:
    """Read the ESP32-CSI-Tool's time: seconds, a point, and microseconds without their leading zeros.

    In recordings ``15.42801`` comes between ``14.908179`` and ``15.140763``, as the boards' own clock confirms.
    """
    whole, _, micros = word.partition(".")
    return int(whole) + int(micros or 0) / 1e6


def _dbm(value: int | None) -> float | None:
    return None if value is None else float(value)


@hookimpl
def tonescope_decoders() -> list[Decoder]:
    """Offer the CSV formats of Espressif's boards."""
    return [EspCsiCsvDecoder(), Esp32CsiToolDecoder()]
