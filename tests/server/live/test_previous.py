"""The window before each, in a stream: what a method that explains changes is given."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tonescope_server.errors import ShapeError
from tonescope_server.live.batch import Patience, Runner, Sharing
from tonescope_server.live.messages import Job
from tonescope_server.live.previous import MOST_NODES, PreviousWindows, together


def job(index, node=0, transmitter="", link=None, cells=None):
    window = np.full((1, 2, 3), float(index), np.float32) if cells is None else cells
    return Job(window, index, 0.0, "none", node, transmitter=transmitter, link=link)


def test_each_node_transmitter_and_link_has_a_window_before_of_its_own():
    kept = PreviousWindows()
    jobs = [job(0), job(1, node=1), job(2), job(3, transmitter="ap"), job(4, link=1), job(5, node=1), job(6)]
    kept.give_to(jobs[:3])
    kept.give_to(jobs[3:])
    before = [None if each.previous is None else int(each.previous[0, 0, 0]) for each in jobs]
    assert before == [None, None, 0, None, None, 1, 2]


def test_a_window_that_could_not_be_read_is_passed_over():
    kept, jobs = PreviousWindows(), [job(0), job(1, cells=ShapeError("values: wrong")), job(2)]
    kept.give_to(jobs)
    assert jobs[1].previous is None
    assert jobs[2].previous is jobs[0].cells


def test_nodes_that_are_invented_do_not_fill_the_memory():
    kept = PreviousWindows()
    kept.give_to(job(i, node=i) for i in range(MOST_NODES + 5))
    oldest, newest = job(0, node=0), job(1, node=MOST_NODES + 4)
    kept.give_to([oldest, newest])
    assert oldest.previous is None
    assert newest.previous is not None


def test_what_is_not_known_is_not_a_number():
    kept, jobs = PreviousWindows(), [job(0), job(1)]
    kept.give_to(jobs)
    found = together(jobs)
    assert found.shape == (2, 2, 3)
    assert found.dtype == np.float32
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1], jobs[0].cells[0])


def explained(explainer, batches, *, inline=True, shared=False):
    """Run a stream's jobs through a runner, batch by batch, as a session does."""
    prepared = explainer.prepare("temporal_difference", 0, {"n_steps": 1024})
    kept, answers = PreviousWindows(), []

    async def serve():
        with ThreadPoolExecutor(1) as executor:
            sharing = Sharing(prepared)
            sharing.streams = 2
            runner = Runner(prepared, executor, Patience(None), sharing=sharing if shared else None, uses_previous=True)
            runner.inline = inline  # as it would be if this were cheap, or dear
            for batch in batches:
                kept.give_to(batch)
                answers.extend(await runner.explain(batch))

    asyncio.run(asyncio.wait_for(serve(), 30))
    return answers


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"inline": False}])
def test_the_changes_of_a_stream_add_up_from_its_first_window_to_its_last(explainer, options):
    random = np.random.default_rng(0)
    windows = [random.standard_normal((1, *explainer.model.input.shape[1:])).astype(np.float32) for _ in range(7)]
    jobs = [job(i, cells=window) for i, window in enumerate(windows)]
    answers = explained(explainer, [jobs[:1], jobs[1:4], jobs[4:]], **options)
    cells = [answer.outcome.cells[answer.row].sum(dtype=np.float64) for answer in answers]
    scores = explainer.score(np.concatenate(windows), 0)
    assert cells[0] == 0
    size = np.abs(scores).max()
    # Even 1,024 nodes leave a thousandth or two on ReLU layers as small and as steep as these.
    np.testing.assert_allclose(cells[1:], np.diff(scores), atol=5e-3 * size)
    np.testing.assert_allclose(sum(cells), scores[-1] - scores[0], atol=1e-2 * size)
    for index, answer in enumerate(answers):
        alone = [w.window for w in answer.outcome.warnings if w.code == "NO_PREVIOUS_WINDOW"]
        assert alone == ([0] if index == 0 else [])


def test_a_method_that_does_not_ask_for_it_is_given_none(explainer):
    assert explainer.prepare("temporal_difference").uses_previous
    assert not explainer.prepare("integrated_gradients").uses_previous
    assert not explainer.prepare("occlusion").uses_previous


def test_only_a_cost_that_no_window_changes_is_bounded(explainer):
    assert explainer.prepare("integrated_gradients").is_bounded
    assert not explainer.prepare("integrated_gradients", None, {"rule": "adaptive"}).is_bounded
    assert not explainer.prepare("occlusion").is_bounded
