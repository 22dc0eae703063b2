"""What follows from a fault that is named already: told with it, in its words and figures, and not as a further one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from tonescope_server.checks.attribution import NULL_TONE_SHARE
from tonescope_server.checks.data import SKIPPED_LENGTHS
from tonescope_server.checks.finding import Finding, Severity
from tonescope_server.checks.frames import MIXED_TRAINING_FIELDS
from tonescope_server.checks.layout import (
    FRAME_MAJOR,
    HEADER_AS_TONES,
    LAYOUT_MISMATCH,
    TONE_MAJOR,
    TONES_ROLLED,
    TRANSPOSED,
)
from tonescope_server.checks.normalisation import WRONG_NORMALISATION
from tonescope_server.checks.predictions import ALWAYS_ONE_CLASS

A = TypeVar("A")

NO_WINDOWS = "NO_WINDOWS"
OF_THE_LAYOUT = (FRAME_MAJOR, TONE_MAJOR, TRANSPOSED, TONES_ROLLED, HEADER_AS_TONES, LAYOUT_MISMATCH)
_FOLLOWS = "; it follows that"
_CAUSES = {
    # By what follows: what it may follow from. The layout comes before what else may be wrong with rows.
    NULL_TONE_SHARE: (MIXED_TRAINING_FIELDS, *OF_THE_LAYOUT, WRONG_NORMALISATION),
    NO_WINDOWS: (HEADER_AS_TONES,),
}


def with_consequences(
    on_data: Sequence[Finding], others: Sequence[tuple[A, Finding]]
) -> tuple[list[Finding], list[tuple[A, Finding]]]:
    """Tell what follows from the faults of data with them.

    Args:
        on_data: what is wrong with the data.
        others: what else was found, each with what it is about.

    Returns:
        Both, without what follows; each consequence is in the message and the figures of the first of its causes.
    """
    causes, rest = list(on_data), []
    for area, finding in others:
        at = _cause(finding, causes)
        if at is None:
            rest.append((area, finding))
        else:
            figures = {**causes[at].figures, **finding.figures}
            joined = "; and that" if _FOLLOWS in causes[at].message else _FOLLOWS
            message = f"{causes[at].message}{joined} {finding.message}"
            causes[at] = replace(causes[at], message=message, figures=figures)
    for at, (area, finding) in enumerate(rest):
        skipped = [each for each in causes if each.code == SKIPPED_LENGTHS]
        if finding.code == NO_WINDOWS and skipped:  # the lesser of two words for one thing
            causes.remove(skipped[0])
            message, remedy = f"{finding.message}; {skipped[0].message}", skipped[0].remedy
            rest[at] = area, replace(finding, message=message, remedy=remedy)
    return causes, rest


def _cause(finding: Finding, causes: Sequence[Finding]) -> int | None:
    if finding.code == ALWAYS_ONE_CLASS:
        return next((at for at, each in enumerate(causes) if each.severity is Severity.FAULT), None)
    for code in _CAUSES.get(finding.code, ()):
        for at, each in enumerate(causes):
            if each.code == code:
                return at
    return None
