"""(g) Exported graphs in plain ONNX Runtime, against the plans that the daemon runs for the same requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from tests.bench.measure import Row, Section, local, medians, microseconds, one_core
from tests.bench.subject import Subject, count_net
from tonescope_server.engine.export import exported

AIM = 1.05
METHODS: dict[str, dict[str, Any]] = {
    "input_x_gradient": {},
    "integrated_gradients": {"n_steps": 32},
    "guided_backprop": {},
    "deep_lift": {},
    "lrp": {},
}
ROUNDS, TIMES = 25, 20


@one_core()
def measure() -> Section:
    """Time each method's plan and its two exports, turn by turn."""
    subject = count_net()
    return Section([_row(subject, name, given) for name, given in METHODS.items()], _notes(subject))


def _row(subject: Subject, name: str, given: dict[str, Any]) -> Row:
    explainer, x = subject.explainer, subject.windows[:1]
    prepared = explainer.prepare(name, None, given)
    own, alone = prepared.plan.session, {explainer.model.input.name: x}
    (fed,) = prepared.method.feeds(prepared.windows(x), prepared.checked)  # type: ignore[attr-defined]  a graph method
    fast, plain = (_session(exported(explainer, prepared, plain=form).graph) for form in (False, True))
    cells = [each.run(["cells"], alone)[0] for each in (fast, plain)]
    want = prepared.run(x).cells
    assert want is not None
    assert all(np.abs(each - want).max() <= 1e-4 * np.abs(want).max() for each in cells)  # else it is something else
    seconds = medians(
        {
            "own": local(lambda: own.run({**alone, **fed})),
            "fast": local(lambda: fast.run(None, alone)),
            "plain": local(lambda: plain.run(None, alone)),
        },
        rounds=ROUNDS,
        times=TIMES,
    )
    ratio = seconds["fast"] / seconds["own"]
    return Row(
        f"(g) exported {name}{''.join(f', {k} {v}' for k, v in given.items())}",
        f"{microseconds(seconds['fast'])} (plain forms {microseconds(seconds['plain'])})",
        f"the daemon's plan {microseconds(seconds['own'])}",
        f"{ratio:.3f}",
        f"≤ {AIM}",
        ratio <= AIM,
    )


def _session(graph: ir.Model) -> ort.InferenceSession:
    """Load a graph as whoever gets the file would: with ONNX Runtime's own settings, but for the one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(ir.to_proto(graph).SerializeToString(), options, providers=["CPUExecutionProvider"])


def _notes(subject: Subject) -> str:
    return (
        f"Model and windows: {subject.said}; one window, one thread. Both sides are ONNX Runtime's own call: the file "
        "that `Explainer.export` writes, and the plan that the daemon compiled for the same request, with what it is "
        "fed at each run. The file gives a convergence delta beside what the plan gives, and works out in the graph "
        "what the daemon works out in NumPy. In brackets: the same in plain forms (`--plain`)."
    )
