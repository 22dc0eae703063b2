from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tonescope_server.csi.frames import Frame
from tonescope_server.engine.explainer import Explainer
from tonescope_server.errors import (
    NotFoundError,
    ParameterError,
    ShapeError,
    ShortFrameError,
    TonescopeError,
    UnknownFormatError,
    WrongMagicError,
)
from tonescope_server.live.intake import MAX_REPORTS, Intake, in_shape
from tonescope_server.live.messages import Job, Options, ReceivedWindow, Rejected, Undecodable, Warned
from tonescope_server.live.protocol import negotiate
from tonescope_server.live.samples import Samples

Make = Callable[..., Intake]
Frames = Callable[..., list[Frame]]


def spans(jobs: list[Job]) -> list[tuple[int, int | None, int | None]]:
    return [(job.node_id, job.first_sequence, job.last_sequence) for job in jobs]


def test_frames_become_overlapping_windows_laid_out_as_the_model_takes_them(make_intake: Make, frames: Frames) -> None:
    sent = frames(8)
    jobs = make_intake().frames(sent, now=1.5)
    assert spans(jobs) == [(0, 0, 3), (0, 2, 5), (0, 4, 7)]
    assert [job.index for job in jobs] == [0, 1, 2]
    assert all(job.arrived == 1.5 for job in jobs)
    expected = np.stack([frame.amplitude for frame in sent[2:6]], axis=1)[None]
    np.testing.assert_array_equal(jobs[1].cells, expected)  # type: ignore[arg-type]


def test_nodes_are_never_mixed_into_one_window(make_intake: Make, frames: Frames) -> None:
    mixed = [frame for pair in zip(frames(4, node=1), frames(4, node=2), strict=True) for frame in pair]
    jobs = make_intake().frames(mixed, now=0.0)
    assert spans(jobs) == [(1, 0, 3), (2, 0, 3)]
    own = np.stack([frame.amplitude for frame in mixed if frame.node_id == 2], axis=1)[None]
    np.testing.assert_array_equal(jobs[1].cells, own)  # type: ignore[arg-type]


def test_frames_of_another_length_are_skipped_counted_and_reported_once(make_intake: Make, frames: Frames) -> None:
    intake = make_intake()
    assert not intake.frames(frames(3, length=192), now=0.0)
    intake.frames(frames(2, first=3, length=192), now=0.0)
    assert intake.summary().frames_skipped == {"length_192": 5}
    assert [notice.code for notice in intake.notices if isinstance(notice, Warned)] == ["FRAMES_SKIPPED"]


def test_undecodable_frames_are_counted_and_the_first_of_each_kind_is_reported(make_intake: Make) -> None:
    intake = make_intake()
    short = Undecodable(ShortFrameError("frame: expected 148 bytes, got 3"), node_id=1, sequence=7)
    vitals = Undecodable(WrongMagicError("frame: vitals, not CSI", "vitals"), node_id=1)
    sync = Undecodable(WrongMagicError("frame: sync, not CSI", "sync"), node_id=1)
    stranger = Undecodable(UnknownFormatError("frame format 'morse': unknown"), node_id=1)
    intake.frames([short, short, vitals, sync, stranger, sync], now=0.0)
    summary = intake.summary()
    assert summary.frames_received == 6
    assert summary.frames_skipped == {"short": 2, "vitals": 1, "sync": 2, "unknown_format": 1}
    first = [(short, 7), (vitals, None), (sync, None), (stranger, None)]
    assert intake.notices == [Rejected(each.error, 1, sequence) for each, sequence in first]


def test_reports_are_bounded_however_many_nodes_are_invented(make_intake: Make) -> None:
    intake = make_intake()
    error = ShortFrameError("short")
    intake.frames([Undecodable(error, node_id=n) for n in range(3 * MAX_REPORTS)], now=0.0)
    assert len(intake.notices) == MAX_REPORTS
    assert intake.summary().frames_skipped["short"] == 3 * MAX_REPORTS


def test_frames_that_are_dropped_or_cannot_be_read_are_not_noted_for_the_checks(
    explainer: Explainer, frames: Frames
) -> None:
    samples, model = Samples(explainer.model.cells.n_cells), explainer.model
    agreement = negotiate(Options(), model, 8)
    intake = Intake(Options(), agreement, model, explainer.host.normalisers, samples=samples)
    a, other = frames(4), frames(2, node=2, length=192)
    intake.frames([a[0], a[1], a[1], Undecodable(ShapeError("no frame"), 0), other[0]], now=0.0)
    intake.frames([a[0], a[2], a[3], a[3]], now=0.0)
    assert [(frame.node_id, frame.sequence) for frame in samples.frames()] == [(0, 0), (0, 1), (0, 2), (0, 3), (2, 0)]
    assert samples.frames_since == 5


def test_gaps_duplicates_and_reordered_frames_follow_the_rules_and_are_reported(
    make_intake: Make, frames: Frames
) -> None:
    intake = make_intake()
    a = frames(20)
    order = [a[0], a[1], a[1], a[2], a[0], a[3], *a[10:14]]
    jobs = intake.frames(order, now=0.0)
    assert spans(jobs) == [(0, 0, 3), (0, 10, 13)]
    summary = intake.summary()
    assert (summary.gaps, summary.duplicates, summary.reordered) == (1, 1, 1)
    assert summary.frames_skipped == {"duplicate": 1, "reordered": 1}
    codes = {notice.code for notice in intake.notices if isinstance(notice, Warned)}
    assert codes == {"GAPS", "DUPLICATES", "REORDERED"}


def test_after_a_reconnection_what_was_answered_is_not_answered_again(make_intake: Make, frames: Frames) -> None:
    whole = make_intake().frames(frames(12), now=0.0)
    resumed = make_intake(source_id="s", resume_from={0: 5}).frames(frames(12)[2:], now=0.0)
    assert spans(resumed) == spans(whole)[2:]
    for before, after in zip(whole[2:], resumed, strict=True):
        np.testing.assert_array_equal(before.cells, after.cells)  # type: ignore[arg-type]


def test_frames_sent_again_for_their_place_alone_are_counted_and_are_no_reason_for_a_warning(
    make_intake: Make, frames: Frames
) -> None:
    intake = make_intake(source_id="s", resume_from={0: 5}, resume_starts={(0, 56): 2})
    assert spans(intake.frames(frames(8), now=0.0)) == [(0, 4, 7)]
    assert intake.summary().frames_skipped == {"answered_before": 2}
    assert not intake.notices


def test_resuming_one_node_leaves_the_others_alone(make_intake: Make, frames: Frames) -> None:
    intake = make_intake(source_id="s", resume_from={1: 100})
    assert spans(intake.frames(frames(4, node=2), now=0.0)) == [(2, 0, 3)]


def test_a_source_that_counts_anew_is_not_taken_for_answered(make_intake: Make, frames: Frames) -> None:
    intake = make_intake(source_id="s", resume_from={0: 1_000_000})
    assert len(intake.frames(frames(4), now=0.0)) == 1


def window(values: npt.NDArray[Any] | TonescopeError) -> ReceivedWindow:
    return ReceivedWindow(values, 3, 10, 13, 99)


def test_windows_are_taken_as_they_are_unless_more_is_asked(make_intake: Make) -> None:
    values = np.arange(224, dtype=np.float64).reshape(56, 4)
    (job,) = make_intake().take([window(values)], now=0.0)
    np.testing.assert_array_equal(job.cells, values[None].astype(np.float32))  # type: ignore[arg-type]
    assert (job.node_id, job.first_sequence, job.last_sequence, job.capture_time_ns) == (3, 10, 13, 99)
    assert job.normalisation == "none"


def test_a_bad_window_keeps_its_place_and_carries_its_error(make_intake: Make) -> None:
    good = np.zeros((56, 4), np.float32)
    infinite = good.copy()
    infinite[3, 1] = np.inf
    sent = [good, good.T, infinite, good.astype(np.complex64), ShapeError("from the wire"), good]
    jobs = make_intake().take(map(window, sent), now=0.0)
    reasons = [job.cells.reason if isinstance(job.cells, TonescopeError) else "" for job in jobs]
    assert reasons == ["", "WRONG_SHAPE", "NON_FINITE", "WRONG_DTYPE", "WRONG_SHAPE", ""]
    assert [job.index for job in jobs] == list(range(6))


def test_windows_of_a_request_that_goes_on_with_a_batch_are_numbered_on(explainer: Explainer) -> None:
    options = Options()
    agreement = negotiate(options, explainer.model, 8)
    intake = Intake(options, agreement, explainer.model, explainer.host.normalisers, first_window=234)
    jobs = intake.take([window(np.zeros((56, 4), np.float32)) for _ in range(2)], now=0.0)
    assert [job.index for job in jobs] == [234, 235]
    assert intake.summary().windows == 2


def test_statistics_of_a_recording_are_used_per_node(make_intake: Make) -> None:
    mean, std = np.full(56, 2, np.float32), np.full(56, 4, np.float32)
    intake = make_intake(normalisation="recording", statistics={(3, None): (mean, std)})
    values = np.full((56, 4), 10, np.float32)
    (job,) = intake.take([window(values)], now=0.0)
    np.testing.assert_allclose(job.cells, 2.0, rtol=1e-6)  # type: ignore[arg-type]
    assert job.normalisation == "recording"
    (other,) = intake.take([ReceivedWindow(values, node_id=4)], now=0.0)
    assert isinstance(other.cells, ParameterError)


def test_running_statistics_are_those_of_the_stream_so_far(make_intake: Make, frames: Frames) -> None:
    intake = make_intake(normalisation="running")
    sent = frames(6)
    first, second = intake.frames(sent, now=0.0)
    seen = np.stack([frame.amplitude for frame in sent]).astype(np.float64)
    for job, until in ((first, 4), (second, 6)):
        # The window holds the last four frames; the statistics are of every frame up to its end.
        assert isinstance(job.cells, np.ndarray)
        mean, std = seen[:until].mean(axis=0), seen[:until].std(axis=0)
        expected = ((seen[until - 4 : until] - mean) / (std + 1e-6)).T[None]
        np.testing.assert_allclose(job.cells, expected, rtol=1e-4, atol=1e-5)


def alternating(frames: Frames, count: int) -> list[Frame]:
    """Frames of 56 and 64 tones by turns, numbered by one counter; those of 64 are three times as strong."""
    made = frames(count)
    for i in range(1, count, 2):
        strong = np.concatenate([3 * made[i].values, np.ones(8, np.float32)])
        made[i] = Frame(strong, sequence=made[i].sequence)
    return made


def test_running_statistics_are_of_the_frames_of_one_length(make_intake: Make, frames: Frames) -> None:
    sent = alternating(frames, 16)
    jobs = make_intake(normalisation="running").frames(sent, now=0.0)
    for parity, length in ((0, 56), (1, 64)):
        mine = [job for job in jobs if job.last_sequence is not None and job.last_sequence % 2 == parity]
        alone = [Frame(each.values, sequence=i) for i, each in enumerate(e for e in sent if e.n_tones == length)]
        expected = make_intake(normalisation="running").frames(alone, now=0.0)
        assert len(mine) == len(expected) == 3
        for job, want in zip(mine, expected, strict=True):
            np.testing.assert_array_equal(job.cells, want.cells)  # type: ignore[arg-type]


def test_statistics_of_a_recording_may_be_of_the_frames_of_one_length(make_intake: Make, frames: Frames) -> None:
    mean, std = np.zeros(56, np.float32), np.ones(56, np.float32)
    of = {(0, 56): (mean, std), (0, 64): (mean, 3 * std)}
    sent = alternating(frames, 8)
    weak, strong = make_intake(normalisation="recording", statistics=of).frames(sent, now=0.0)
    for job, first, scale in ((weak, 0, 1), (strong, 1, 3)):
        expected = np.stack([each.values[:56] / scale for each in sent[first::2]], axis=1)[None]
        np.testing.assert_allclose(job.cells, expected, rtol=1e-5)  # type: ignore[arg-type]
    only = make_intake(normalisation="recording", statistics={(0, 56): (mean, std)}).frames(sent, now=0.0)
    assert isinstance(only[0].cells, np.ndarray)
    assert "statistics of node 0, frames of 64 tones, got none" in str(only[1].cells)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({(3, 56): 1, (3, None): 2, (None, 56): 3, (None, None): 4}, 1),
        ({(3, 64): 1, (3, None): 2, (None, 56): 3, (None, None): 4}, 2),
        ({(3, 64): 1, (4, None): 2, (None, 56): 3, (None, None): 4}, 3),
        ({(3, 64): 1, (4, None): 2, (None, 64): 3, (None, None): 4}, 4),
    ],
)
def test_the_closest_statistics_are_used(
    make_intake: Make, frames: Frames, given: dict[tuple[int | None, int | None], int], meant: int
) -> None:
    statistics = {key: (np.zeros(56, np.float32), np.full(56, std, np.float32)) for key, std in given.items()}
    sent = frames(4, node=3)
    (job,) = make_intake(normalisation="recording", statistics=statistics).frames(sent, now=0.0)
    expected = np.stack([each.values / meant for each in sent], axis=1)[None]
    np.testing.assert_allclose(job.cells, expected, rtol=1e-5)  # type: ignore[arg-type]


def test_an_unknown_normalisation_is_named_with_those_there_are(make_intake: Make) -> None:
    with pytest.raises(NotFoundError, match=r"'whitening'.*running"):
        make_intake(normalisation="whitening")


def test_statistics_of_another_number_of_tones_are_refused(make_intake: Make) -> None:
    short = np.ones(55, np.float32)
    with pytest.raises(ShapeError, match="expected 56 tones"):
        make_intake(normalisation="recording", statistics={(None, None): (short, short)})


@pytest.mark.parametrize("shape", [(56, 4), (224,), (1, 56, 4), (56, 1, 4)])
def test_a_window_may_come_flat_or_with_axes_of_one(shape: tuple[int, ...]) -> None:
    assert in_shape(np.zeros(shape), (56, 4)).shape == (56, 4)


@pytest.mark.parametrize("shape", [(4, 56), (2, 56, 2), (56, 5), (223,), (), (2, 56, 4)])
def test_any_other_shape_is_refused_above_all_a_transposed_one(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected \(56, 4\)"):
        in_shape(np.zeros(shape), (56, 4))
