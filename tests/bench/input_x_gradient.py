"""(a) Input × gradient on the CountNet, one window at a time, one thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from tests.bench.measure import Row, Section, local, medians, microseconds, one_core
from tests.bench.subject import Subject, count_net
from tonescope_server import Explainer

AIM_CAPTUM, AIM_FORWARD = 0.12, 1.8
ROUNDS, TIMES = 30, 100
NO_TORCH = "skipped: no torch (make bench-peers)"


@one_core()
def measure() -> Section:
    """Time the product, its bare session, the bare forward and Captum, turn by turn."""
    subject = count_net()
    x = subject.windows[:1]
    target = int(subject.explainer.predict(x).class_index[0])
    prepared = subject.explainer.prepare("input_x_gradient")
    forward = _session(subject.explainer.model.graph)
    timed = {
        "run": local(lambda: prepared.run(x)),
        "session": local(_bare(subject.explainer, x)),
        "forward": local(lambda: forward.run(None, {subject.explainer.model.input.name: x})),
    }
    with captum(subject, target) as peer:
        if peer is None:
            return Section(_rows(medians(timed, rounds=ROUNDS, times=TIMES)), _notes(subject, ""))
        error = np.abs(prepared.run(x).cells - peer.cells).max() / np.abs(peer.cells).max()
        timed["captum"] = peer.samples
        return Section(_rows(medians(timed, rounds=ROUNDS, times=TIMES)), _notes(subject, peer.versions, error))


def _rows(median: dict[str, float]) -> list[Row]:
    rows = []
    for name, said in (("run", "Prepared.run"), ("session", "its graph alone")):
        ours = median[name]
        what = f"(a) input × gradient, {said}"
        rows.append(_row(what, ours, median.get("captum"), "Captum", AIM_CAPTUM))
        rows.append(_row(what, ours, median["forward"], "bare forward", AIM_FORWARD))
    return rows


def _row(what: str, ours: float, peer: float | None, whose: str, aim: float) -> Row:
    if peer is None:
        return Row(what, microseconds(ours), NO_TORCH, aim=f"≤ {aim}")
    ratio = ours / peer
    return Row(what, microseconds(ours), f"{whose} {microseconds(peer)}", f"{ratio:.3f}", f"≤ {aim}", ratio <= aim)


def _notes(subject: Subject, peer: str, error: float = 0.0) -> str:
    against = (
        f"Captum is {peer} in an interpreter of its own, one thread, the same core, on a network of the same weights, "
        f"and is told the class; its cells and ours differ by {error:.0e} of the largest."
        if peer
        else "Captum was not measured: there is no interpreter with torch (`make bench-peers` makes one)."
    )
    return (
        f"Model and windows: {subject.said}. `Prepared.run` finds the predicted class, and returns cells, tones, "
        "score, outputs and the null-tone share; probabilities are worked out when asked for. Its graph alone is ONNX "
        "Runtime's own call on what was compiled: the same cells, tones and outputs, nothing derived from them. The "
        "bare forward is ONNX Runtime on the network as loaded, without the lift to two dimensions. "
        f"{against}"
    )


def _session(graph: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(ir.to_proto(graph).SerializeToString(), options, providers=["CPUExecutionProvider"])


def _bare(explainer: Explainer, x: Any) -> Any:
    """Return the compiled graph of the method alone: ONNX Runtime's own call and nothing around it."""
    method = explainer.host.method("input_x_gradient")
    parameters = method.Parameters()
    plan = explainer.compiled(("bench",), explainer.resolve(None), lambda tape: method.describe(tape, parameters))
    session, feeds = _session(plan.graph), {explainer.model.input.name: x}
    return lambda: session.run(None, feeds)


class Peer:
    """Captum, in its own interpreter.

    Attributes:
        versions: what it runs on.
        cells: what it attributed.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        said = self._answer()
        self.versions = f"captum {said['captum']} on torch {said['torch']}"
        self.cells = np.asarray(said["cells"], np.float32)

    def samples(self, times: int) -> Sequence[float]:
        """Return the seconds of each of so many calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{times}\n")
        self._process.stdin.flush()
        found: list[float] = self._answer()
        return found

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline() or '"the peer ended: its error is above"')


def interpreter() -> Path | None:
    """Return an interpreter that has torch, or None."""
    named = os.environ.get("TONESCOPE_BENCH_TORCH_PYTHON")
    beside = Path(__file__).resolve().parents[2] / ".venv-bench" / "bin" / "python"
    found = [Path(named)] if named else [beside, Path(sys.executable)]
    return next((path for path in found if path.exists() and _has_torch(path)), None)


def _has_torch(python: Path) -> bool:
    found = "import importlib.util as u, sys; sys.exit(not (u.find_spec('torch') and u.find_spec('captum')))"
    return subprocess.run([python, "-c", found], check=False).returncode == 0


@contextmanager
def captum(subject: Subject, target: int) -> Iterator[Peer | None]:
    """Run the peer while it is needed; None where there is no torch."""
    python = interpreter()
    if python is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "count_net.npz"
        np.savez(given, **subject.weights, x=subject.windows[:1], target=target)
        command = [python, Path(__file__).with_name("captum_peer.py"), given]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield Peer(process)
            finally:
                process.terminate()
