"""What follows from a named fault is told with it; what does not is told by itself."""

from __future__ import annotations

import pytest

from tonescope_server.checks import Finding, Severity
from tonescope_server.reports.consequences import with_consequences

SHARE = Finding("NULL_TONE_SHARE", Severity.FAULT, "30% lies on nulls", "", {"null_tone_share": 0.3})


def fault(code, severity=Severity.FAULT):
    return Finding(code, severity, f"{code} was seen", "mend it", {"a": 1.0})


@pytest.mark.parametrize("code", ["FRAME_MAJOR", "TONES_ROLLED", "MIXED_TRAINING_FIELDS", "WRONG_NORMALISATION"])
def test_a_share_on_null_tones_follows_from_wrong_rows(code):
    (told,), rest = with_consequences([fault(code)], [("attribution", SHARE)])
    assert rest == []
    assert told.message == f"{code} was seen; it follows that 30% lies on nulls"
    assert (told.code, told.remedy, told.figures) == (code, "mend it", {"a": 1.0, "null_tone_share": 0.3})


@pytest.mark.parametrize("code", ["GAIN_STEPS", "MISSING_NODE", "DUPLICATE_FRAMES", "CONSTANT_ROWS"])
def test_a_share_on_null_tones_does_not_follow_from_what_leaves_rows_alone(code):
    assert with_consequences([fault(code)], [("attribution", SHARE)])[1] == [("attribution", SHARE)]


def test_mixed_fields_come_before_what_else_may_be_wrong_with_rows():
    told, _ = with_consequences([fault("LAYOUT_MISMATCH"), fault("MIXED_TRAINING_FIELDS")], [("", SHARE)])
    assert ["null_tone_share" in each.figures for each in told] == [False, True]


def test_one_class_for_all_windows_follows_from_faults_and_not_from_warnings():
    note = Finding("ALWAYS_ONE_CLASS", Severity.NOTE, "all 40 windows are predicted to be 'empty'")
    (told,), rest = with_consequences([fault("NO_SIGNAL")], [("", SHARE), ("", note)])
    assert told.message.endswith("; it follows that all 40 windows are predicted to be 'empty'")
    assert rest == [("", SHARE)]
    assert with_consequences([fault("GAIN_STEPS", Severity.WARNING)], [("", note)])[1] == [("", note)]


def test_consequences_are_told_after_each_other():
    note = Finding("ALWAYS_ONE_CLASS", Severity.NOTE, "all are alike")
    (told,), _ = with_consequences([fault("FRAME_MAJOR")], [("", SHARE), ("", note)])
    assert told.message == "FRAME_MAJOR was seen; it follows that 30% lies on nulls; and that all are alike"


def test_no_windows_follow_from_a_header_and_say_why_of_other_lengths():
    none = fault("NO_WINDOWS")
    (told,), rest = with_consequences([fault("HEADER_AS_TONES")], [("data", none)])
    assert (told.code, rest) == ("HEADER_AS_TONES", [])
    told, ((area, only),) = with_consequences([fault("SKIPPED_LENGTHS", Severity.WARNING)], [("data", none)])
    assert (told, area, only.code, only.remedy) == ([], "data", "NO_WINDOWS", "mend it")
    assert only.message == "NO_WINDOWS was seen; SKIPPED_LENGTHS was seen"
