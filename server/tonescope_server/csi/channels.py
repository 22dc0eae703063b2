"""Where WiFi channels lie: from a channel number to megahertz, for the 2.4 GHz and 5 GHz bands.

Which tones a layout has, and how far they lie from its centre, belongs to ``tones``.
"""

from __future__ import annotations

ABOVE, BELOW = "above", "below"
_5_GHZ = ((36, 144), (149, 177))


def centre_mhz(channel: int, width_mhz: int = 20, secondary: str = "") -> float | None:
    """Give the centre frequency of a channel 20, 40 or 80 MHz wide; None where the arguments do not settle it.

    Args:
        channel: its primary channel; at 5 GHz also the number of the wide channel itself (38, 42, …).
        width_mhz: how wide it is.
        secondary: ``"above"`` or ``"below"``: the side of the primary that the rest of 40 MHz lies on. At 2.4 GHz it
            must be given, at 5 GHz wide channels lie where they lie; what contradicts that settles nothing.

    Numbers of the 6 GHz band are those of the others again: what lies there has to state its centre itself.

    Source: IEEE 802.11-2020, annex E: 2407 + 5 n MHz for 1 to 13, 2484 for 14, 5000 + 5 n for 36 to 177.
    """
    if 1 <= channel <= 14:
        return _at_2_4_ghz(channel, width_mhz, secondary)
    for first, last in _5_GHZ:
        if first <= channel <= last:
            return _at_5_ghz(channel, first, width_mhz, secondary)
    return None


def _at_2_4_ghz(channel: int, width_mhz: int, secondary: str) -> float | None:
    primary = 2484.0 if channel == 14 else 2407.0 + 5 * channel
    if width_mhz == 20:
        return primary
    if width_mhz != 40 or not secondary:
        return None
    return primary + 10 if secondary == ABOVE else primary - 10


def _at_5_ghz(channel: int, first: int, width_mhz: int, secondary: str) -> float | None:
    """Find the centre of the block that a channel is in: blocks follow each other from ``first`` on."""
    size = width_mhz // 5  # in channel numbers
    within, middle = (channel - first) % size, size // 2 - 2
    if within != middle and within % 4:
        return None
    if width_mhz == 40 and secondary and within != middle and secondary != (ABOVE if within < middle else BELOW):
        return None
    return 5000.0 + 5 * (channel - within + middle)
