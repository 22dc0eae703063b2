"""Several streams of one cheap plan, run together."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from tonescope_server.engine.explainer import Explainer
from tonescope_server.errors import ModelError
from tonescope_server.live.batch import Sharing
from tonescope_server.testing import tiny_models, tiny_windows


class Watched:
    """A real prepared request, whose runs are written down, and which can be told to fail on some windows."""

    def __init__(self, explainer: Explainer, fails_on: float | None = None) -> None:
        self._prepared = explainer.prepare("input_x_gradient")
        self._fails_on = fails_on
        self.seconds_per_window = self._prepared.seconds_per_window
        self.sizes: list[int] = []

    def run(self, x: Any, check: Any = lambda: None) -> Any:
        self.sizes.append(len(x))
        if self._fails_on is not None and (x == self._fails_on).any():
            raise ModelError("one of these windows cannot be run")
        return self._prepared.run(x, check)


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    model = tiny_models()["conv_1d"]
    from tonescope_server.engine.explainer import installed_plugins

    return Explainer(model, installed_plugins())


def shared(plan: Watched, streams: list[Any]) -> list[Any]:
    """Ask for every stream's windows in one turn of the event loop; return each one's outcome."""

    async def ask() -> list[Any]:
        sharing = Sharing(plan)
        sharing.streams = len(streams)
        return await asyncio.gather(*(sharing.run(x) for x in streams), return_exceptions=True)

    return asyncio.run(ask())


def test_what_several_streams_ask_for_in_one_turn_is_run_once(explainer: Explainer) -> None:
    x = tiny_windows(explainer.model, 5)
    plan = Watched(explainer)
    parts = shared(plan, [x[:1], x[1:4], x[4:]])
    assert plan.sizes == [5]
    alone = explainer.explain(x)
    for (result, first, _), rows in zip(parts, ([0], [1, 2, 3], [4]), strict=True):
        np.testing.assert_allclose(result.tones[first : first + len(rows)], alone.tones[rows], rtol=1e-5, atol=1e-7)
    assert [first for _, first, _ in parts] == [0, 1, 4]


def test_one_run_holds_no_more_windows_than_the_loop_can_spare(explainer: Explainer) -> None:
    x = tiny_windows(explainer.model, 1)
    plan = Watched(explainer)
    plan.seconds_per_window = 0.001
    shared(plan, [x] * 10)
    assert plan.sizes == [4, 4, 2]


def test_a_stream_that_is_alone_is_not_made_to_wait(explainer: Explainer) -> None:
    async def ask() -> bool:
        sharing = Sharing(Watched(explainer))
        sharing.streams = 1
        running = sharing.run(tiny_windows(explainer.model, 1))
        try:
            running.send(None)
        except StopIteration:
            return True
        running.close()
        return False

    assert asyncio.run(ask())


def test_a_window_that_fails_costs_other_streams_nothing(explainer: Explainer) -> None:
    x = tiny_windows(explainer.model, 3).copy()
    x[1].flat[0] = 77.0
    plan = Watched(explainer, fails_on=77.0)
    good, bad, other = shared(plan, [x[:1], x[1:2], x[2:]])
    assert isinstance(bad, ModelError)
    for (result, first, _), row in ((good, 0), (other, 2)):
        np.testing.assert_allclose(result.tones[first], explainer.explain(x[row : row + 1]).tones[0], rtol=1e-5)


def test_a_stream_that_left_in_the_meantime_disturbs_nobody(explainer: Explainer) -> None:
    x = tiny_windows(explainer.model, 2)

    async def ask() -> Any:
        sharing = Sharing(Watched(explainer))
        sharing.streams = 2
        leaving, staying = (asyncio.ensure_future(sharing.run(x[i : i + 1])) for i in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        return await staying

    result, first, _ = asyncio.run(ask())
    np.testing.assert_allclose(result.tones[first], explainer.explain(x[1:]).tones[0], rtol=1e-5, atol=1e-7)
