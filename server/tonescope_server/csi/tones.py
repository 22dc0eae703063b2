"""Tone tables: which subcarrier each array row is, its offset in Hz, and whether it carries signal.

The tables, and the detector that picks one from evidence, belong here. How the cells of a model's input map
to tones is in ``cells``; where a layout's bytes come from is in ``decoders``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_server.errors import ShapeError, UnknownToneLayoutError
from tonescope_server.types import BoolArray

HT_SPACING_HZ = 312_500.0
HE_SPACING_HZ = 78_125.0
MAX_UNKNOWN_TONES = 65_536
_UNKNOWN_PREFIX = "unknown_"

# Pilots by signed subcarrier index, as 802.11 places them.
_PILOTS_20 = frozenset({-21, -7, 7, 21})
_PILOTS_40 = frozenset({-53, -25, -11, 11, 25, 53})
_PILOTS_80 = frozenset({-103, -75, -39, -11, 11, 39, 75, 103})
_PILOTS_HE20 = frozenset({-116, -90, -48, -22, 22, 48, 90, 116})

# The chips that write the buffers which only their zeros tell apart.
_CLASSIC_ESP = frozenset({"esp32", "esp32s2", "esp32s3", "esp32c3"})


class ToneKind(StrEnum):
    """What a tone carries."""

    DATA = "data"
    PILOT = "pilot"
    NULL = "null"
    UNKNOWN = "unknown"


class RowsAre(StrEnum):
    """What the rows of a table are: subcarriers, or engineered features, which lie on no frequency."""

    TONES = "tones"
    FEATURES = "features"


@dataclass(frozen=True, slots=True)
class Tone:
    """One row of a tone table.

    Attributes:
        row: the array row.
        subcarrier_index: signed subcarrier index, DC = 0, in the channel its training field is sent on; None
            where not known.
        offset_hz: distance from the table's centre (``ToneTable.centre``); None where not known.
        kind: data, pilot, null (no signal), or unknown.
        training_field: ``"lltf"``, ``"ht_ltf"``, ``"he_ltf"``; ``"csd"`` for a row that holds a cyclic-shift
            angle in place of a channel; "" where the source does not say.
        name: of a feature; "" for a tone, and for a feature that has none.
    """

    row: int
    subcarrier_index: int | None
    offset_hz: float | None
    kind: ToneKind
    training_field: str = ""
    name: str = ""


@dataclass(frozen=True)
class ToneTable:
    """The identity of every row of a CSI frame.

    Attributes:
        id: the tone-layout id, as in a manifest.
        tones: one entry a row.
        status: ``"verified"`` (on recordings), ``"vendor"`` (the maker's documentation), ``"assumed"``,
            ``"unknown"``.
        centre: what ``offset_hz`` is measured from: ``"channel"`` (the 20 MHz primary, or the only channel)
            or ``"ht40"`` (the centre of the 40 MHz pair).
        centre_mhz: the frequency of that centre; None where not known. See ``at``.
        rows_are: tones, or features.
    """

    id: str
    tones: tuple[Tone, ...]
    status: str = "unknown"
    centre: str = "channel"
    centre_mhz: float | None = None
    rows_are: RowsAre = RowsAre.TONES

    def __len__(self) -> int:
        return len(self.tones)

    def __iter__(self) -> Iterator[Tone]:
        return iter(self.tones)

    @cached_property
    def null_mask(self) -> BoolArray:
        """Mark the rows that carry no signal: bool ``[n_tones]``, read-only."""
        mask = np.array([tone.kind is ToneKind.NULL for tone in self.tones], dtype=np.bool_)
        mask.setflags(write=False)
        return mask

    @cached_property
    def null_rows(self) -> tuple[int, ...]:
        """List the rows that carry no signal, ascending."""
        return tuple(tone.row for tone in self.tones if tone.kind is ToneKind.NULL)

    @property
    def knows_nulls(self) -> bool:
        """Say whether the table marks any row as null: without one there is no null-tone share."""
        return bool(self.null_rows)

    @property
    def is_unknown(self) -> bool:
        """Say whether nothing but the number of rows is known."""
        return self.id.startswith(_UNKNOWN_PREFIX)

    @property
    def width_mhz(self) -> int:
        """Give the width of the channel whose centre is the table's: 20, 40 or 80 MHz, by how far its tones reach."""
        reach_hz = max((abs(tone.offset_hz) for tone in self.tones if tone.offset_hz is not None), default=0.0)
        return next((width for width in (20, 40) if reach_hz <= width * 0.5e6), 80)

    def at(self, centre_mhz: float | None) -> ToneTable:
        """Return the table with its centre at this frequency."""
        return self if centre_mhz == self.centre_mhz else replace(self, centre_mhz=centre_mhz)

    def frequency_mhz(self, tone: Tone) -> float | None:
        """Give the absolute frequency of one of its tones; None where it or the centre is not known."""
        if self.centre_mhz is None or tone.offset_hz is None:
            return None
        return self.centre_mhz + tone.offset_hz * 1e-6


@dataclass(frozen=True)
class _Layout:
    """A tone table and the evidence that its detection takes.

    ``chips`` may write it; ``leaks`` are null rows that need not be exactly zero in a recording;
    ``by_length`` says whether chip, length and bandwidth alone settle it, with no zeros seen.
    """

    table: ToneTable
    chips: frozenset[str] = frozenset()
    leaks: frozenset[int] = frozenset()
    by_length: bool = False
    bandwidth_mhz: int | None = None


def _field(
    indices: Iterable[int],
    *,
    is_null: Callable[[int], bool] = lambda _: False,
    pilots: Collection[int] = (),
    unstated: Collection[int] = (),
    name: str = "",
    spacing_hz: float = HT_SPACING_HZ,
    shift_hz: float | None = 0.0,
) -> list[Tone]:
    """Lay out one training field: rows from 0, to be renumbered by ``_table``.

    ``unstated`` are indices where 802.11 puts a pilot but the layout's source names none: their kind is
    unknown.
    """

    def kind(k: int) -> ToneKind:
        if is_null(k):
            return ToneKind.NULL
        if k in pilots:
            return ToneKind.PILOT
        return ToneKind.UNKNOWN if k in unstated else ToneKind.DATA

    return [
        Tone(row, k, None if shift_hz is None else k * spacing_hz + shift_hz, kind(k), name)
        for row, k in enumerate(indices)
    ]


def _table(layout_id: str, status: str, *fields: Sequence[Tone], centre: str = "channel") -> ToneTable:
    tones = [tone for part in fields for tone in part]
    numbered = tuple(replace(tone, row=row) for row, tone in enumerate(tones))
    return ToneTable(layout_id, numbered, status, centre)


def _dc_or_beyond(edge: int, dc: int = 0) -> Callable[[int], bool]:
    return lambda k: abs(k) <= dc or abs(k) > edge


def _around_dc(dc: int) -> Callable[[int], bool]:
    return lambda k: abs(k) <= dc


def _wrapped(n: int) -> list[int]:
    """List the indices of an FFT buffer: 0, 1, … then the negative ones."""
    return [i if i < n // 2 else i - n for i in range(n)]


def _both_sides(first: int, last: int) -> list[int]:
    return [*range(-last, -first + 1), *range(first, last + 1)]


def _lltf(indices: Iterable[int], shift_hz: float | None = 0.0) -> list[Tone]:
    return _field(indices, is_null=_dc_or_beyond(26), pilots=_PILOTS_20, name="lltf", shift_hz=shift_hz)


def _ht20(indices: Iterable[int]) -> list[Tone]:
    return _field(indices, is_null=_dc_or_beyond(28), pilots=_PILOTS_20, name="ht_ltf")


def _ht20_of_stbc() -> list[Tone]:
    """Give an HT-LTF as STBC buffers hold it: its DC row is a cyclic-shift angle, not a channel."""
    dc, *rest = _ht20(_wrapped(64))
    return [replace(dc, kind=ToneKind.UNKNOWN, training_field="csd"), *rest]


def _esp_layouts() -> Iterator[_Layout]:
    wrapped = _wrapped(64)
    shifted = range(-32, 32)
    # The ESP32 may write four bytes of something else over rows 0 and 1, so a zero in row 0 is no evidence.
    leaks = frozenset({0})
    esp = _CLASSIC_ESP
    yield _Layout(_table("esp_lltf", "verified", _lltf(wrapped)), esp, leaks)
    yield _Layout(_table("esp_ht20", "verified", _ht20(wrapped)), esp, leaks)
    yield _Layout(_table("esp128", "verified", _lltf(wrapped), _ht20(wrapped)), esp, leaks)
    stbc = _table("esp192_stbc", "verified", _lltf(wrapped), _ht20_of_stbc(), _ht20_of_stbc())
    yield _Layout(stbc, esp, leaks)

    # Recorded: DC and the innermost guard tones are small, not zero; rows 0 and 1 as above.
    leaks = frozenset({0, 1, 5, 32, 59})
    for suffix in ("", "_above", "_below"):
        chips = frozenset() if suffix else esp  # zeros cannot tell above from below
        yield _Layout(_table(f"esp_lltf_secondary{suffix}", "verified", _lltf(shifted)), chips, leaks)
    # The primary lies 10 MHz below the centre of the pair when the secondary is above, and the other way
    # round.
    ht_ltf = _field(_wrapped(128), is_null=_dc_or_beyond(58, 1), pilots=_PILOTS_40, name="ht_ltf")
    leaks |= {64 + j for j in (0, 1, 59, 69, 127)}
    for suffix, shift_hz in (("", None), ("_above", -10e6), ("_below", 10e6)):
        chips = frozenset() if suffix else esp
        table = _table(f"esp192_ht40{suffix}", "verified", _lltf(shifted, shift_hz), ht_ltf, centre="ht40")
        yield _Layout(table, chips, leaks)

    c6 = frozenset({"esp32c6"})
    yield _Layout(_table("esp_c6_64", "verified", _ht20(shifted)), c6, frozenset({0, 1, 32}), by_length=True)
    yield _Layout(_table("ruview56", "verified", _lltf(wrapped)[:56]), esp, frozenset({0}))


def _c5_layouts() -> Iterator[_Layout]:
    fields: list[tuple[int, int, frozenset[int], str, float]] = [
        (26, 0, _PILOTS_20, "lltf", HT_SPACING_HZ),
        (28, 0, _PILOTS_20, "ht_ltf", HT_SPACING_HZ),
        (58, 1, _PILOTS_40, "ht_ltf", HT_SPACING_HZ),
        (122, 1, _PILOTS_HE20, "he_ltf", HE_SPACING_HZ),
    ]
    for edge, dc, unstated, name, spacing_hz in fields:
        indices = [*range(edge + 1), *range(-edge, 0)]
        tones = _field(indices, is_null=_around_dc(dc), unstated=unstated, name=name, spacing_hz=spacing_hz)
        n = 2 * edge + 1
        yield _Layout(
            _table(f"c5_{n}", "vendor", tones),
            frozenset({"esp32c5", "esp32c61"}),
            frozenset({0, 1, n - 1}),
            by_length=True,
        )


def _card_layouts() -> Iterator[_Layout]:
    intel = frozenset({"intel5300", "iwl5300"})
    ht20 = [*range(-28, -1, 2), -1, *range(1, 28, 2), 28]
    tones = _field(ht20, unstated=_PILOTS_20, name="ht_ltf")
    yield _Layout(_table("intel5300_ht20", "verified", tones), intel, by_length=True, bandwidth_mhz=20)
    tones = _field([*range(-58, -1, 4), *range(2, 59, 4)], name="ht_ltf")
    yield _Layout(_table("intel5300_ht40", "verified", tones), intel, by_length=True, bandwidth_mhz=40)
    # Assumed layouts may be declared; no chip is named, so that none is ever detected.
    tones = _field(_both_sides(1, 28), pilots=_PILOTS_20, name="ht_ltf")
    yield _Layout(_table("ht20_56", "assumed", tones))
    tones = _field(_both_sides(2, 58), pilots=_PILOTS_40, name="ht_ltf")
    yield _Layout(_table("ht40_114", "assumed", tones))
    tones = _field(_both_sides(2, 122), pilots=_PILOTS_HE20, name="he_ltf", spacing_hz=HE_SPACING_HZ)
    yield _Layout(_table("he20_242", "assumed", tones))


def _feitcsi_layouts() -> Iterator[_Layout]:
    """Give the buffers of Intel's AX cards: each row is a tone, and the rows of the pilots hold nothing but zero."""
    chips = frozenset({"intelax"})
    tones = _field(_both_sides(1, 28), is_null=_PILOTS_20.__contains__, name="ht_ltf")
    yield _Layout(_table("feitcsi_ht20", "verified", tones), chips, by_length=True, bandwidth_mhz=20)
    tones = _field(_both_sides(2, 122), is_null=_PILOTS_HE20.__contains__, name="he_ltf", spacing_hz=HE_SPACING_HZ)
    yield _Layout(_table("feitcsi_he20", "verified", tones), chips, by_length=True, bandwidth_mhz=20)


def _nexmon_layouts() -> Iterator[_Layout]:
    """Give the FFT buffers of Broadcom's chips. Their nulls are weak, never exactly zero.

    A packet does not say whether its sender used all the tones of the band, so the outermost of 20 and 40 MHz
    are unknown.
    """
    chips = frozenset({"bcm4339", "bcm43455c0", "bcm4358", "bcm4366c0"})
    fields: list[tuple[int, int, int, frozenset[int], frozenset[int], str]] = [
        (20, 0, 28, _PILOTS_20, frozenset({-28, -27, 27, 28}), "vendor"),
        (40, 1, 58, _PILOTS_40, frozenset(), "vendor"),
        (80, 1, 122, _PILOTS_80, frozenset(), "verified"),
    ]
    for bandwidth, dc, edge, pilots, unstated, status in fields:
        n = bandwidth * 16 // 5
        tones = _field(_wrapped(n), is_null=_dc_or_beyond(edge, dc), pilots=pilots, unstated=unstated)
        table = _table(f"nexmon_{bandwidth}", status, tones)
        yield _Layout(table, chips, frozenset(table.null_rows), by_length=True, bandwidth_mhz=bandwidth)


_FAMILIES = (_esp_layouts, _c5_layouts, _card_layouts, _feitcsi_layouts, _nexmon_layouts)
_LAYOUTS: dict[str, _Layout] = {layout.table.id: layout for family in _FAMILIES for layout in family()}


def tone_layouts() -> tuple[str, ...]:
    """List the ids of every known tone layout."""
    return tuple(_LAYOUTS)


@lru_cache(maxsize=64)
def unknown_table(n: int) -> ToneTable:
    """Give a table of ``n`` rows about which nothing is known.

    Raises:
        UnknownToneLayoutError: ``n`` is not in 1 … 65,536.
    """
    if not 1 <= n <= MAX_UNKNOWN_TONES:
        raise UnknownToneLayoutError(f"tone layout 'unknown_{n}': expected 1 to {MAX_UNKNOWN_TONES} rows, got {n}")
    return ToneTable(f"{_UNKNOWN_PREFIX}{n}", tuple(Tone(i, None, None, ToneKind.UNKNOWN) for i in range(n)))


def feature_table(n: int, names: Sequence[str] = ()) -> ToneTable:
    """Give a table of ``n`` engineered features, which are no tones.

    Raises:
        ShapeError: names, but not one for each.
        UnknownToneLayoutError: ``n`` is not in 1 … 65,536.
    """
    if names and len(names) != n:
        raise ShapeError(f"feature names: expected {n}, got {len(names)}")
    table = unknown_table(n)
    tones = tuple(replace(tone, name=name) for tone, name in zip(table, names, strict=True)) if names else table.tones
    return replace(table, tones=tones, rows_are=RowsAre.FEATURES)


def tone_table(layout_id: str, n: int | None = None) -> ToneTable:
    """Look a tone table up by its layout id.

    ``"unknown_<n>"``, or ``"unknown"`` or ``""`` with ``n``, gives a table of n unknown rows.

    Raises:
        UnknownToneLayoutError: no layout goes by that id.
        ShapeError: ``n`` is given and the layout has another number of rows.
    """
    table = _find(layout_id, n)
    if n is not None and len(table) != n:
        raise ShapeError(f"tone layout {layout_id!r}: expected {len(table)} rows, got {n}")
    return table


def _find(layout_id: str, n: int | None) -> ToneTable:
    if layout_id in _LAYOUTS:
        return _LAYOUTS[layout_id].table
    if layout_id in ("", "unknown") and n is not None:
        return unknown_table(n)
    rows = layout_id.removeprefix(_UNKNOWN_PREFIX)
    if rows != layout_id and rows.isascii() and rows.isdigit() and len(rows) < 10:
        return unknown_table(int(rows))
    known = ", ".join((*_LAYOUTS, "unknown_<n>"))
    raise UnknownToneLayoutError(f"tone layout {layout_id!r}: unknown, expected one of {known}")


def layouts_of_length(n: int) -> tuple[ToneTable, ...]:
    """List the known tone tables of ``n`` rows."""
    return tuple(layout.table for layout in _LAYOUTS.values() if len(layout.table) == n)


def certain_nulls(table: ToneTable) -> BoolArray:
    """Mark the null rows that are exactly zero in every recording: bool ``[n_tones]``.

    The others are null too, but a chip may write something small over them.
    """
    layout = _LAYOUTS.get(table.id)
    certain = table.null_mask.copy()
    certain[list(layout.leaks if layout is not None else ())] = False
    return certain


def zero_signature(amplitudes: npt.NDArray[Any]) -> tuple[int, ...]:
    """List the rows that are exactly zero in every frame of a recording; none where there is no frame.

    Shapes:
        amplitudes: ``[n_frames, n_tones]``.
    """
    if amplitudes.shape[0] == 0:
        return ()
    return tuple(int(row) for row in np.flatnonzero(~np.any(amplitudes, axis=0)))


def detect_layout(
    n: int,
    chip: str | None = None,
    zero_rows: Collection[int] | None = None,
    bandwidth_mhz: int | None = None,
) -> str:
    """Name the tone layout that the evidence settles, or ``"unknown_<n>"``: never a guess.

    A layout fits when every row seen to be zero is one of its nulls, and every null that cannot leak was seen
    to be zero. Without zeros, only layouts that chip, length and bandwidth settle are named: an ESP32 buffer
    of 192 rows is STBC or HT40, and nothing but its zeros says which.

    Args:
        n: rows of a frame.
        chip: such as ``"esp32-s3"``, ``"esp32-c6"``, ``"intel5300"``; None or "" where not known.
        zero_rows: the rows that stayed zero over a recording (``zero_signature``); None where not looked at.
        bandwidth_mhz: of the frames; None where not known.
    """
    fitting = [
        layout.table.id
        for layout in _LAYOUTS.values()
        if len(layout.table) == n and _fits(layout, _normal(chip), zero_rows, bandwidth_mhz)
    ]
    return fitting[0] if len(fitting) == 1 else f"{_UNKNOWN_PREFIX}{n}"


def may_be(n: int, chip: str | None = None, bandwidth_mhz: int | None = None) -> tuple[str, ...]:
    """List the layouts of ``n`` rows that ``detect_layout`` chooses from, before it looks at zeros."""
    return tuple(
        layout.table.id
        for layout in _LAYOUTS.values()
        if len(layout.table) == n and _is_eligible(layout, _normal(chip), bandwidth_mhz)
    )


def _normal(chip: str | None) -> str:
    return "".join(c for c in (chip or "").lower() if c.isalnum())


def _is_eligible(layout: _Layout, chip: str, bandwidth_mhz: int | None) -> bool:
    if not layout.chips or (chip and chip not in layout.chips):
        return False
    return bandwidth_mhz is None or layout.bandwidth_mhz in (None, bandwidth_mhz)


def _fits(layout: _Layout, chip: str, zero_rows: Collection[int] | None, bandwidth_mhz: int | None) -> bool:
    if not _is_eligible(layout, chip, bandwidth_mhz):
        return False
    nulls = frozenset(layout.table.null_rows)
    certain = nulls - layout.leaks
    if zero_rows is None or not certain:
        settled = bool(chip) and layout.by_length
        return settled and (zero_rows is None or nulls.issuperset(zero_rows))
    return nulls.issuperset(zero_rows) and certain.issubset(zero_rows)
