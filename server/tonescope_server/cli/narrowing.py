"""``--progressive``: windows explained by a method that gets better with time, shown as they narrow.

Windows follow one another, each with conditions of its own. What is shown at the end beside the table is here, too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

import tonescope
from tonescope.results import Explanation
from tonescope_server import Explainer
from tonescope_server.cli.console import err, out
from tonescope_server.cli.identity import tone_text
from tonescope_server.cli.usage import only
from tonescope_server.engine.targets import TargetLike
from tonescope_server.live.messages import Job, Wanted
from tonescope_server.services.in_process import InProcess

REDRAWS_PER_S = 10
# At a daemon: who watches ends it, or the conditions do, and no deadline of ours.
LONGEST_S = 7 * 24 * 3600.0
SHOWN = 20
BAR = 40
STOPPED = {"converged": "converged", "budget": "budget spent", "time_limit": "time limit", "exhausted": "exhausted"}
Updates = Iterator[tonescope.Update]


@dataclass
class Narrowing:
    """One command's progressive explanations.

    Attributes:
        stop: when each window is good enough, or has cost enough.
        last: the last update of each window, as it came.
        interrupted: whether Ctrl-C ended it: who pressed it had seen enough of what is in ``last``.
    """

    stop: tonescope.Stop
    last: list[tonescope.Update] = field(default_factory=list)
    interrupted: bool = False

    def here(
        self,
        explainer: Explainer,
        jobs: Sequence[Job],
        method: str,
        target: TargetLike,
        parameters: Mapping[str, Any],
        want: Wanted,
    ) -> list[Explanation]:
        """Explain in this process."""
        request = InProcess(explainer, method, target, parameters, want)
        return self._run(len(jobs), lambda row: request.explain_progressively(jobs[row], self.stop))

    def there(self, client: tonescope.Client, windows: npt.NDArray[Any], asked: Mapping[str, Any]) -> list[Explanation]:
        """Explain at a daemon."""

        def begin(row: int) -> Any:
            one = windows[row : row + 1]
            return client.explain_progressively(one, stop=self.stop, timeout=LONGEST_S, **asked)

        return self._run(len(windows), begin)

    def _run(self, windows: int, begin: Callable[[int], Any]) -> list[Explanation]:
        try:
            with Live(console=err, auto_refresh=False, transient=True) as live:
                for row in range(windows):
                    self._narrow(row, begin(row), _Picture(live, windows))
        except KeyboardInterrupt:
            if not self.last:
                raise
            self.interrupted = True
        return [update.explanation for update in self.last]

    def _narrow(self, row: int, updates: Any, shown: _Picture) -> None:
        with closing(updates):
            for update in updates:
                numbered = replace(update, explanation=replace(update.explanation, window_index=row))
                self.last[row:] = [numbered]
                shown.draw(numbered)

    def show(self, top: int) -> None:
        """Show, window by window, why the work ended, what it cost, and the strongest tones with their intervals."""
        out.print(ended_table(self.last[:SHOWN], top))

    def again(self) -> None:
        """Raise what ended it early, now that what was found has been told.

        Raises:
            KeyboardInterrupt: it was Ctrl-C.
        """
        if self.interrupted:
            raise KeyboardInterrupt

    @property
    def section(self) -> list[dict[str, Any]]:
        """What a report says of it: one entry a window; null is what is not known, or relative to nothing."""
        return [
            {
                "window_index": update.explanation.window_index,
                "stop_reason": update.stop_reason,
                "updates": update.number + 1,
                "evaluations": update.explanation.evaluations,
                "relative_error": _finite(update.relative_error),
                "interval_half_width": update.half_width,
            }
            for update in self.last
        ]


class _Picture:
    """What is seen of one window in a terminal: drawn a few times a second, and nowhere else."""

    def __init__(self, live: Live, windows: int) -> None:
        self._live = live
        self._windows = windows
        self._drawn = -math.inf

    def draw(self, update: tonescope.Update) -> None:
        """Draw how the window stands, where it is time."""
        now = time.monotonic()
        if err.is_terminal and now - self._drawn >= 1 / REDRAWS_PER_S:
            self._drawn = now
            self._live.update(picture(update, self._windows), refresh=True)


def narrowing_of(
    context: typer.Context, progressive: bool, tolerance: float, budget: int, time_limit: float
) -> Narrowing | None:
    """Return what was asked for; None without ``--progressive``.

    Raises:
        ParameterError: a condition without it.
    """
    if not progressive:
        only(context, ("tolerance", "budget", "time_limit"), "with --progressive", "no --progressive")
        return None
    return Narrowing(tonescope.Stop(tolerance, budget, time_limit))


def picture(update: tonescope.Update, windows: int, top: int = 12) -> Group:
    """Draw how one window stands: a line for each of its strongest tones, with the interval around its attribution."""
    each = update.explanation
    widths = np.zeros(len(each.tones)) if update.half_width is None else update.half_width
    scale = max((abs(tone.attribution) + float(widths[tone.row]) for tone in each.top), default=0.0)
    shown = Table("tone", "attribution", "±", "", box=None)
    for tone in each.top[:top]:
        width = None if update.half_width is None else float(update.half_width[tone.row])
        name, value = tone_text(tone.tone, tone.row), tone.attribution
        shown.add_row(name, f"{value:.4g}", _number(width), bar(value, width, scale))
    error = _percent(update.relative_error)
    said = f"window {each.window_index + 1} of {windows}: {each.method}, {each.evaluations} evaluations, error {error}"
    return Group(Text(said), shown)


def bar(value: float, width: float | None, scale: float) -> Text:
    """Draw |value| from the left, and the interval around its end: ``━━━━━───``."""
    if not scale:
        return Text("")
    end = abs(value) / scale * BAR
    half = 0.0 if width is None else width / scale * BAR
    line = Text("━" * round(max(end - half, 0)), "red" if value < 0 else "green")
    line.append("─" * (round(end + half) - round(max(end - half, 0))), "bright_black")
    return line


def ended_table(updates: Sequence[tonescope.Update], top: int) -> Table:
    """List windows with why the work ended, what it cost, and the strongest tones with their intervals."""
    known = any(update.half_width is not None for update in updates)
    heading = "strongest, ± half the 95 % interval" if known else "strongest"
    shown = Table("window", "ended", "updates", "evaluations", "error", heading, box=None)
    for update in updates:
        each = update.explanation
        tones = "  ".join(_with_interval(update, tone) for tone in each.top[: min(top, 4)])
        ended = STOPPED.get(update.stop_reason, "interrupted")
        numbers = str(update.number + 1), str(each.evaluations), _percent(update.relative_error)
        shown.add_row(str(each.window_index), ended, *numbers, tones)
    return shown


def _with_interval(update: tonescope.Update, tone: Any) -> str:
    name, value = tone_text(tone.tone, tone.row), f"{tone.attribution:.3g}"
    if update.half_width is None:
        return f"{name}: {value}"
    return f"{name}: {value} ± {update.half_width[tone.row]:.2g}"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.2g}"


def _percent(value: float | None) -> str:
    return "—" if value is None else "∞" if math.isinf(value) else f"{value:.2%}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
