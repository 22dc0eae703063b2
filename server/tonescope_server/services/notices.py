"""Writes everything that a live stream says besides explanations."""

from __future__ import annotations

from dataclasses import asdict

from tonescope.v1 import error_pb2, live_pb2
from tonescope_server.checks import Finding, Severity
from tonescope_server.live.messages import Draining, Dropped, Notice, Rejected, Warned
from tonescope_server.services.status import problem_of

_SEVERITIES = {
    Severity.NOTE: error_pb2.SEVERITY_NOTE,
    Severity.WARNING: error_pb2.SEVERITY_WARNING,
    Severity.FAULT: error_pb2.SEVERITY_FAULT,
}


def message_of_notice(notice: Notice) -> live_pb2.LiveResponse:
    """Return a notice as the wire has it."""
    if isinstance(notice, Dropped):
        return live_pb2.LiveResponse(dropped=live_pb2.Dropped(**asdict(notice)))
    if isinstance(notice, Warned):
        return live_pb2.LiveResponse(warning=error_pb2.Warning(code=notice.code, message=notice.message))
    if isinstance(notice, Finding):
        return live_pb2.LiveResponse(warning=warning_of(notice))
    if isinstance(notice, Rejected):
        rejected = live_pb2.Rejected(problem=problem_of(notice.error), node_id=notice.node_id, sequence=notice.sequence)
        return live_pb2.LiveResponse(rejected=rejected)
    if isinstance(notice, Draining):
        draining = live_pb2.Draining(grace_ms=round(notice.grace_s * 1e3), cause=notice.cause)
        return live_pb2.LiveResponse(draining=draining)
    return live_pb2.LiveResponse(summary=live_pb2.Summary(**asdict(notice)))


def warning_of(finding: Finding) -> error_pb2.Warning:
    """Return a finding as the wire has it."""
    return error_pb2.Warning(
        code=finding.code,
        message=finding.message,
        severity=_SEVERITIES[finding.severity],
        remedy=finding.remedy,
        figures=finding.figures,
        node_id=finding.node_id,
    )
