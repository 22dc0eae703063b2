"""What became of a live stream over all its connections, in lines. The results themselves are each command's."""

from __future__ import annotations

import tonescope
from tonescope_server.cli.console import listed
from tonescope_server.cli.pace import Played


def daemon_line(played: Played, stream: tonescope.LiveStream) -> str:
    """Say what the daemon counted, of all connections that it summed up; "" where there was nothing to count."""
    counts, summary = stream.counts, stream.summary
    if summary is None:
        unknown = "connections were lost before they were summed up"
        return f"daemon: its counts are not known, as {unknown}" if counts.unaccounted else ""
    return (
        f"daemon{_which(counts)}: {summary.frames_used} of {summary.frames_received} frames used "
        f"(skipped: {listed(summary.frames_skipped)}); "
        f"{summary.windows} windows, {summary.explained} explained, {summary.dropped} dropped, "
        f"{summary.failed} failed; {played.gaps(summary)} gaps"
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
