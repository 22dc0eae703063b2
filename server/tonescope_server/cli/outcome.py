"""What became of a live stream over all its connections, in lines. The results themselves are each command's."""

from __future__ import annotations

import tonescope
from tonescope_server.cli.console import listed
from tonescope_server.cli.counted import antennas
from tonescope_server.cli.pace import Played
from tonescope_server.errors import EmptyRecordingError


def daemon_line(played: Played, stream: tonescope.LiveStream, interrupted: bool = False) -> str:
    """Say what the daemon counted, of all connections that it summed up; "" where there was nothing to count.

    Args:
        played: what was sent.
        stream: which has ended.
        interrupted: whether it was left before the daemon had summed it up.
    """
    counts, summary = stream.counts, stream.summary
    if summary is None:
        why = "the stream was left before it was" if interrupted else "connections were lost before they were"
        return f"daemon: its counts are not known, as {why} summed up" if counts.unaccounted else ""
    received = f"{summary.frames_received} frames{antennas(played.frames, played.messages)}"
    return (
        f"daemon{_which(counts)}: {summary.frames_used} of {received} used "
        f"(skipped: {listed(summary.frames_skipped)}); "
        f"{summary.windows} windows, {summary.explained} explained, {summary.dropped} dropped, "
        f"{summary.failed} failed; {played.gaps(summary)} gaps"
    )


def lost(counts: tonescope.LiveCounts, interrupted: bool) -> int:
    """Count the connections that were lost before the daemon had summed them up; one that was left is none."""
    return max(0, counts.unaccounted - interrupted)


def need_windows(name: str, played: Played, stream: tonescope.LiveStream) -> None:
    """Make sure that a stream that came to its end made a window.

    Raises:
        EmptyRecordingError: it made none; the message says what a window takes, and what became of the frames.
    """
    opened, counts = stream.opened, stream.counts
    if opened is None or stream.summary is None or stream.summary.windows or counts.answered or counts.failed:
        return
    tones = " or ".join(map(str, opened.frame_lengths)) or str(len(opened.tone_table))
    raise EmptyRecordingError(
        f"recording {name!r}: expected a run of {opened.window_frames} frames of {tones} tones for model "
        f"'{opened.model}', got none: {daemon_line(played, stream)}"
    )


def _which(counts: tonescope.LiveCounts) -> str:
    """Name the connections whose counts are known, where there were several."""
    if not counts.reconnects:
        return ""
    known, all_of_them = counts.reconnects + 1 - counts.unaccounted, counts.reconnects + 1
    if not counts.unaccounted:
        return f", over {all_of_them} connections"
    return f", over {known} of {all_of_them} connections (the rest was lost before it was summed up)"


def windows_line(counts: tonescope.LiveCounts) -> str:
    """Say what became of the windows, over all connections, as far as the daemon told."""
    return f"{counts.answered} windows explained, {counts.dropped} dropped, {counts.failed} failed"


def connections_line(counts: tonescope.LiveCounts) -> str:
    """Say how often a daemon was reached again, and what that cost; "" where it never was lost."""
    if not counts.reconnects:
        return ""
    never = f", {counts.discarded} never sent" if counts.discarded else ""
    return f"reconnections: {counts.reconnects}; {counts.resent} frames sent again, {counts.forgotten} lost{never}"
