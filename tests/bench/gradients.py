"""(e) Gradients of whole networks against torch's autograd, onnx-ad and the bare forward; and what compiling costs."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as ort_state
from onnx import numpy_helper

from tests import families
from tests.bench.input_x_gradient import NO_TORCH, interpreter
from tests.bench.measure import Row, Section, Timed, local, medians, microseconds, milliseconds, one_core
from tonescope_server import Explainer, Target
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.engine.plan import PlanCache
from tonescope_server.gradients.tape import Tape
from tonescope_server.models.loading import load_model
from tonescope_server.types import FloatArray

BATCHES = (1, 32)
ROUNDS, TIMES = 15, {1: 20, 32: 3}
COMPILES = 5
AIM_COMPILE_S, AIM_AGAIN_S = 1.0, 0.2
TARGET = Target.element(1)

NETWORKS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "CountNet": lambda: families.count_net(56, 20, (64, 128, 128)),
    "ResNet": lambda: families.resnet(64, (16, 32, 64, 128)),
    "Transformer": lambda: families.transformer(20, 56, 64, 4, 128),
    "MLP": lambda: families.mlp(64, 128),
    "depthwise": lambda: families.depthwise((8, 56, 20), (32, 64, 128)),
    "LSTM": lambda: families.recurrent("LSTM", 20, 56, 64),
    "GRU": lambda: families.recurrent("GRU", 20, 56, 64),
    "BiLSTM": lambda: families.recurrent("LSTM", 20, 56, 64, layers=2, both=True),
}
AIMS_ONE = {"CountNet": 0.15, "ResNet": 0.25, "Transformer": 0.25, "LSTM": 0.5, "GRU": 0.5, "BiLSTM": 0.5}
AIM_MANY = 1.2


@one_core()
def measure() -> Section:
    """Time each network at each batch, turn by turn with its peers; then compile the ResNet."""
    python = interpreter()
    with tempfile.TemporaryDirectory() as made:
        subjects = [Subject(name, Path(made)) for name in NETWORKS]
        with _torch(python, Path(made)) as torch:
            found = [_rows(s, batch, torch, python) for s in subjects for batch in BATCHES]
        compiled = _compiling(next(s for s in subjects if s.name == "ResNet"))
        version = "" if torch is None else torch.version
    rows = [row for rows, _, _ in found for row in rows]
    errors = [error for _, error, _ in found if error is not None]
    failed = sorted({why for _, _, why in found if why})
    return Section([*rows, *compiled], _notes(version, max(errors, default=0.0), failed))


class Subject:
    """One network: in the folder as a model and as tensors, and ready to be differentiated."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.path = name, folder / f"{name}.onnx"
        self.proto = NETWORKS[name]()
        onnx.save(self.proto, self.path)
        self.explainer = Explainer.load(self.path)
        shape = self.explainer.model.input.shape[1:]
        self.x = np.random.default_rng(4).standard_normal((max(BATCHES), *shape)).astype(np.float32)
        tensors = {t.name: numpy_helper.to_array(t) for t in self.proto.graph.initializer}
        np.savez(folder / f"{name}.npz", **tensors, x=self.x)

    def gradient(self, x: FloatArray) -> Callable[[], Any]:
        """Return the compiled gradient: ONNX Runtime's own call and nothing around it."""
        resolved = self.explainer.resolve(TARGET)
        plan = self.explainer.compiled(("bench",), resolved, _describe)
        session = _session(ir.to_proto(plan.graph).SerializeToString())
        feeds = {"x": x, **resolved.feeds(slice(None), len(x))}
        return lambda: session.run(["gradient"], feeds)[0]

    def forward(self, x: FloatArray) -> Callable[[], Any]:
        """Return the model as it is."""
        session = _session(self.proto.SerializeToString())
        return lambda: session.run(None, {"x": x})

    def onnx_ad(self, python: Path, x: FloatArray) -> Callable[[], Any] | str:
        """Return the gradient by onnx-ad, or why there is none. It needs to know the batch."""
        fixed = onnx.ModelProto()
        fixed.CopyFrom(self.proto)
        for value in (*fixed.graph.input, *fixed.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = len(x)
        with tempfile.TemporaryDirectory() as folder:
            given, result = Path(folder) / "given.onnx", Path(folder) / "result.onnx"
            onnx.save(fixed, given)
            peer = Path(__file__).with_name("onnx_ad_peer.py")
            done = subprocess.run([python, peer, given, result], capture_output=True, text=True, check=False)
            if done.returncode:
                return (done.stderr.strip().splitlines() or ["failed"])[-1]
            try:
                session = _session(result.read_bytes())
                seed = np.zeros((len(x), families.CLASSES, 1), np.float32)
                seed[:, 1] = 1

                def run() -> Any:
                    return session.run(["adj_x"], {"x": x, "adj_logits": seed})[0]

                run()
            except (
                ort_state.Fail,
                ort_state.InvalidArgument,
                ort_state.InvalidGraph,
                ort_state.NotImplemented,
                ValueError,
            ) as error:
                return str(error).splitlines()[0]
        return run


def _describe(tape: Tape) -> None:
    tape.result("gradient", tape.evaluate("standard").gradient)


def _session(data: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


class Torch:
    """Autograd, in its own interpreter.

    Attributes:
        version: torch's.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.version: str = self._answer()

    def gradient(self, name: str, batch: int) -> FloatArray:
        """Return what it finds."""
        return np.asarray(self._ask(name, batch, 0), np.float32)

    def timed(self, name: str, batch: int) -> Timed:
        """Return what times it."""
        return lambda times: self._ask(name, batch, times)

    def _ask(self, name: str, batch: int, times: int) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name} {batch} {times}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline() or '"the peer ended: its error is above"')


@contextmanager
def _torch(python: Path | None, folder: Path) -> Iterator[Torch | None]:
    if python is None:
        yield None
        return
    command = [python, Path(__file__).with_name("gradients_peer.py"), folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Torch(process)
        finally:
            process.terminate()


def _rows(
    subject: Subject, batch: int, torch: Torch | None, python: Path | None
) -> tuple[list[Row], float | None, str]:
    """Return the lines of one network at one batch, how far torch's gradient is from ours, and why onnx-ad failed."""
    x = subject.x[:batch]
    gradient = subject.gradient(x)
    timed = {"ours": local(gradient), "forward": local(subject.forward(x))}
    error, why = None, ""
    if torch is not None:
        error = _distance(gradient(), torch.gradient(subject.name, batch))
        timed["torch"] = torch.timed(subject.name, batch)
    found = "no interpreter has it" if python is None else subject.onnx_ad(python, x)
    if isinstance(found, str):
        why = f"{subject.name}: {found}"
    elif _distance(gradient(), found()) > 1e-3:
        why = f"{subject.name}: its gradient differs from ours by {_distance(gradient(), found()):.0e} of the largest"
    else:
        timed["onnx-ad"] = local(found)
    seconds = medians(timed, rounds=ROUNDS, times=TIMES[batch])
    return _lines(f"(e) {subject.name}, batch {batch}", seconds, _aim(subject.name, batch)), error, why


def _aim(name: str, batch: int) -> float | None:
    return AIMS_ONE.get(name) if batch == 1 else AIM_MANY


def _lines(what: str, seconds: Mapping[str, float], aim: float | None) -> list[Row]:
    ours = seconds["ours"]
    stated = "" if aim is None else f"≤ {aim:g}"
    rows = [Row(what, microseconds(ours), NO_TORCH, aim=stated)]
    if "torch" in seconds:
        ratio = ours / seconds["torch"]
        met = None if aim is None else ratio <= aim
        rows = [Row(what, microseconds(ours), f"torch {microseconds(seconds['torch'])}", f"{ratio:.3f}", stated, met)]
    for peer, said in (("forward", "bare forward"), ("onnx-ad", "onnx-ad")):
        if peer in seconds:
            rows.append(Row("…", "", f"{said} {microseconds(seconds[peer])}", f"{ours / seconds[peer]:.2f}"))
    return rows


def _distance(ours: FloatArray, theirs: FloatArray) -> float:
    return float(np.abs(ours - theirs.reshape(ours.shape)).max() / np.abs(ours).max())


def _compiling(subject: Subject) -> list[Row]:
    """Time from the file to a session that differentiates, without and with a cache of plans that knows the model."""
    first, again = [], []
    for _ in range(COMPILES):
        cache = PlanCache()
        for samples in (first, again):
            start = time.perf_counter()
            explainer = Explainer(load_model(subject.path), installed_plugins(), cache=cache)
            explainer.compiled(("bench",), explainer.resolve(TARGET), _describe)
            samples.append(time.perf_counter() - start)
    return [
        Row(what, milliseconds(statistics.median(samples)), aim=f"≤ {aim:g} s", met=statistics.median(samples) <= aim)
        for what, samples, aim in (
            ("(e) ResNet: load, differentiate, compile", first, AIM_COMPILE_S),
            ("… a second load", again, AIM_AGAIN_S),
        )
    ]


def _notes(version: str, error: float, failed: list[str]) -> str:
    torch = (
        f"torch is {version} in an interpreter of its own, one thread, the same core, on networks of the same weights, "
        "none of which asks for a gradient; its gradients and ours differ by at most "
        f"{error:.0e} of the largest."
        if version
        else "torch was not measured: there is no interpreter with it (`make bench-peers` makes one)."
    )
    without = f" Not measured with onnx-ad: {'; '.join(failed)}." if failed else ""
    return (
        "The gradient of one logit by the window: ONNX Runtime's own call on what was compiled, which returns the "
        "gradient alone. CountNet as published (56 × 20); a ResNet-18 of widths 16–128 on 3 × 64 × 64; two pre-norm "
        "encoder layers of width 64 over 20 frames; an MLP 64–128–128 with LayerNormalization and GELU; six depthwise "
        "and pointwise pairs on 8 × 56 × 20; one LSTM, one GRU, two bidirectional LSTMs, 64 wide, over 20 frames of "
        f"56 tones. Random weights. {torch} onnx-ad is given the batch as a fixed size, and its graph runs on the same "
        f"ONNX Runtime.{without} A second load reads and checks the file again, and finds its plan in the cache that "
        "a daemon keeps."
    )
