"""How the methods of plugins behave while they run: what failed and how often, and which are refused for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock

from tonescope_server.errors import PluginError

# A method that hung this often is refused from then on: each time has cost a worker the whole time limit.
MOST_HANGS = 3


class Kind(StrEnum):
    """What a method did wrong."""

    FAILED = "failed"
    HUNG = "hung"


@dataclass(frozen=True)
class Incident:
    """One thing that a method did wrong.

    Attributes:
        plugin: that the method comes from.
        count: how often this method has done the like, this time included.
        quarantined: whether it is refused from now on.
        cause: what was raised; None where nothing was.
    """

    plugin: str
    method: str
    kind: Kind
    message: str
    count: int
    quarantined: bool = False
    cause: BaseException | None = None


class Conduct:
    """What was seen of each method since the start. Any thread may tell.

    Attributes:
        counts: incidents by plugin, method and kind.
        quarantined: methods that are refused until the process ends, and why.
        listener: is told of every incident.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, Kind]] = Counter()
        self.quarantined: dict[str, str] = {}
        self.listener: Callable[[Incident], None] = lambda _: None
        self._lock = Lock()

    def note(self, plugin: str, method: str, kind: Kind, message: str, cause: BaseException | None = None) -> None:
        """Count an incident, and quarantine the method where it has hung too often."""
        with self._lock:
            self.counts[plugin, method, kind] += 1
            count = self.counts[plugin, method, kind]
            quarantined = kind is Kind.HUNG and count == MOST_HANGS
            if quarantined:
                self.quarantined[method] = f"it hung {count} times, and is refused until the daemon is started again"
        self.listener(Incident(plugin, method, kind, message, count, quarantined, cause))

    def refuse(self, method: str, named: str) -> None:
        """Refuse a method that is in quarantine.

        Raises:
            PluginError: it is; ``named`` says which, and which plugin's.
        """
        if method in self.quarantined:
            raise PluginError(f"{named} is quarantined: {self.quarantined[method]}")


def said_by(error: BaseException) -> str:
    """Put what was raised into one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
