from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tonescope_server.errors import ParameterError, ProtocolError, ShapeError
from tonescope_server.live.messages import Options, Wanted
from tonescope_server.live.protocol import Agreement, Conversation, Said, negotiate
from tonescope_server.models.model import Model


@pytest.mark.parametrize("said", [Said.FRAMES, Said.WINDOWS, Said.NOTHING, Said.END])
def test_nothing_but_open_may_come_first(said: Said) -> None:
    with pytest.raises(ProtocolError, match="expected open as the first message"):
        Conversation().hear(said)


@pytest.mark.parametrize("said", [Said.OPEN, Said.NOTHING])
def test_open_may_come_only_first(said: Said) -> None:
    conversation = Conversation()
    conversation.hear(Said.OPEN)
    with pytest.raises(ProtocolError, match="expected frames or windows after the first message"):
        conversation.hear(said)


def test_frames_and_windows_may_follow_open_in_any_order() -> None:
    conversation = Conversation()
    for said in (Said.OPEN, Said.FRAMES, Said.WINDOWS, Said.FRAMES, Said.END):
        conversation.hear(said)


def agreed(model: Model, **asked: Any) -> Agreement:
    return negotiate(Options(**asked), model, most_windows=8)


def test_what_is_left_open_comes_from_the_manifest_and_the_daemon(model: Model) -> None:
    agreement = agreed(model)
    assert (agreement.window_frames, agreement.hop_frames) == (4, 2)
    assert agreement.frame_lengths == (56, 64)
    assert (agreement.normalisation, agreement.window_normalisation) == ("none", "none")
    assert (agreement.queue_windows, agreement.want.top_k) == (8, 8)


def test_the_daemons_bound_on_the_queue_is_the_most_that_can_be_asked(model: Model) -> None:
    assert agreed(model, queue_windows=3).queue_windows == 3
    assert agreed(model, queue_windows=8).warnings == ()
    agreement = agreed(model, queue_windows=10**8)
    assert agreement.queue_windows == 8
    (warning,) = agreement.warnings
    assert warning.code == "QUEUE_WINDOWS"
    assert warning.message == "queue_windows: 100000000 were asked for; this daemon holds at most 8"


def test_top_k_never_exceeds_the_number_of_tones(model: Model) -> None:
    assert agreed(model, want=Wanted(top_k=1000)).want.top_k == 56


def test_windows_of_another_length_than_the_models_are_refused(model: Model) -> None:
    with pytest.raises(ShapeError, match=r"window_frames: .*expected 4 .*got 5"):
        agreed(model, window_frames=5)


def test_a_recordings_normalisation_needs_the_recordings_statistics(model: Model) -> None:
    with pytest.raises(ParameterError, match="statistics"):
        agreed(model, normalisation="recording")
    given = {None: (np.zeros(56, np.float32), np.ones(56, np.float32))}
    assert agreed(model, normalisation="recording", statistics=given).window_normalisation == "recording"


def test_a_manifest_that_wants_a_recordings_statistics_gets_running_ones_and_the_client_is_told(
    model: Model,
) -> None:
    stated = model.manifest.normalisation.filled(kind="recording")
    other = replace(model, manifest=model.manifest.filled(normalisation=stated))
    agreement = agreed(other)
    assert agreement.normalisation == "running"
    assert agreement.warnings[0].code == "NORMALISATION_RUNNING"


def test_what_was_guessed_about_a_model_is_told_to_every_stream(model: Model) -> None:
    agreement = agreed(replace(model, warnings=("a guess",)))
    assert [(w.code, w.message) for w in agreement.warnings] == [("MODEL", "a guess")]
