from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tonescope_server import plugin
from tonescope_server.gradients.arrays import tracer_for
from tonescope_server.gradients.context import Context


def unknown():
    x = ir.Value(name="x")
    tracer = tracer_for(Context(ir.Graph([x], [], nodes=[], opset_imports={"": 18})), x, ())
    return tracer.array(x, (tracer.batch,), np.bool_)


def test_windows_are_listed_where_they_are_known():
    assert plugin.windows_where(np.array([False, True, True])) == [1, 2]
    assert plugin.windows_where(unknown()) == []


def test_work_is_over_when_all_windows_are_done_and_never_in_a_graph():
    assert plugin.is_over(np.array([True, True]))
    assert not plugin.is_over(np.array([True, False]))
    assert not plugin.is_over(unknown())
