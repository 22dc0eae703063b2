"""What a check found: one fault, how it was seen, and what to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters.

    A fault makes answers about tones wrong until something is changed. A warning is a circumstance that answers
    suffer from. A note is worth knowing.
    """

    FAULT = "fault"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        code: a stable word, such as ``"LAYOUT_MISMATCH"``.
        severity: how much it matters.
        message: one line: what is wrong, where, and how it was seen.
        remedy: one line: what to change, in the manifest's own keys where it is the manifest; "" where nothing
            can be done.
        figures: the numbers behind it, by name; names end in their unit.
        node_id: the node it is about; None for all of them.
    """

    code: str
    severity: Severity
    message: str
    remedy: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    node_id: int | None = None
