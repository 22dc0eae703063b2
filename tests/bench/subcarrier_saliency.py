"""(b) The R5 statistic over 128 windows, against central differences in NumPy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tests.bench.measure import Row, Section, local, medians, milliseconds, one_core
from tests.bench.subject import count_net
from tonescope_server.types import FloatArray, Target

AIM = 700
EPSILON = 1e-3
REPEATS = 3

Multiply = Callable[[npt.NDArray[np.float32], npt.NDArray[np.float32]], npt.NDArray[np.float32]]


@one_core()
def measure() -> Section:
    """Time the analytic statistic and two central-difference ones."""
    subject = count_net()
    x = subject.windows
    labels = subject.explainer.predict(x).class_index
    prepared = subject.explainer.prepare("subcarrier_saliency", Target.negative_log_likelihood())
    found: dict[str, FloatArray] = {}

    def analytic() -> None:
        found["ours"] = prepared.run(x).tones.mean(axis=0)

    def differences(multiply: Multiply) -> float:
        start = time.perf_counter()
        found["theirs"] = central_differences(x, labels, subject.weights, multiply)
        return time.perf_counter() - start

    ours, einsum, matmul = [], [], []
    for _ in range(REPEATS):
        ours.append(medians({"ours": local(analytic)}, rounds=1, times=20)["ours"])
        einsum.append(differences(_by_einsum))
        matmul.append(differences(np.matmul))
    apart = np.abs(found["ours"] - found["theirs"]).max() / found["theirs"].max()
    mine = statistics.median(ours)
    what = f"(b) R5 statistic, {len(x)} windows"
    rows = [
        _row(what, mine, statistics.median(einsum), "NumPy, einsum", AIM),
        _row(what, mine, statistics.median(matmul), "NumPy, BLAS", None),
    ]
    return Section(rows, _notes(subject.said, len(x), x.shape[1], float(apart)))


def _row(what: str, ours: float, peer: float, whose: str, aim: int | None) -> Row:
    ratio = peer / ours
    judged = {"aim": f"≥ {aim} × faster", "met": ratio >= aim} if aim is not None else {}
    return Row(what, milliseconds(ours), f"{whose} {milliseconds(peer)}", f"{ratio:,.0f} × faster", **judged)


def _notes(subject: str, windows: int, rows: int, apart: float) -> str:
    return (
        f"Model and windows: {subject}. Both sides take L = −log p of the predicted class, which is found beforehand "
        "for NumPy and in the same call by us, and end with one value per tone. NumPy does what the published script "
        f"does: each of {rows} rows is shifted by ±{EPSILON:g} as a whole, and each of the {2 * rows} forwards takes "
        f"all {windows} windows in float32; a convolution is one contraction per tap. “einsum” is that contraction by "
        "`np.einsum`, as published; “BLAS” is the same code with `np.matmul` in its place, the stronger of the two. "
        f"The two statistics differ by {apart:.1e} of the largest, as far as ε in float32 allows. One thread."
    )


# -- the peer -------------------------------------------------------------------------------------------------------


def central_differences(
    x: FloatArray, labels: npt.NDArray[np.int64], weights: dict[str, FloatArray], multiply: Multiply
) -> npt.NDArray[np.float64]:
    """Return mean over windows of |∂L/∂row| · mean |row|, the derivative by shifting each row both ways."""
    found = np.zeros(x.shape[1])
    for row in range(x.shape[1]):
        loss = []
        for shift in (EPSILON, -EPSILON):
            shifted = x.copy()
            shifted[:, row] += shift
            loss.append(_loss(shifted, labels, weights, multiply))
        slope = (loss[0] - loss[1]) / (2 * EPSILON)
        found[row] = (np.abs(slope) * np.abs(x[:, row]).mean(axis=1)).mean()
    return found


def _loss(
    x: FloatArray, labels: npt.NDArray[np.int64], weights: dict[str, FloatArray], multiply: Multiply
) -> FloatArray:
    for number, dilation in ((1, 1), (2, 2), (3, 4)):
        x = _convolved(x, weights[f"enc.c{number}.weight"], weights[f"enc.c{number}.bias"], dilation, multiply)
    hidden = _linear(x.mean(axis=2), weights, "count_head.fc1")
    logits = _linear(np.maximum(hidden, 0), weights, "count_head.fc2")
    logits -= logits.max(axis=1, keepdims=True)
    chosen: FloatArray = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(x)), labels]
    return chosen


def _convolved(x: FloatArray, weight: FloatArray, bias: FloatArray, dilation: int, multiply: Multiply) -> FloatArray:
    """Convolve over time, keeping the length, and rectify: one contraction of channels for each tap."""
    taps, frames = weight.shape[2], x.shape[2]
    reach = dilation * (taps // 2)
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach)))
    total = np.zeros((len(x), len(weight), frames), np.float32) + bias[:, None]
    for tap in range(taps):
        begin = tap * dilation
        total += multiply(weight[:, :, tap], padded[:, :, begin : begin + frames])
    return np.maximum(total, 0)


def _by_einsum(weight: FloatArray, x: FloatArray) -> FloatArray:
    product: FloatArray = np.einsum("nif,oi->nof", x, weight)
    return product


def _linear(x: FloatArray, weights: dict[str, FloatArray], name: str) -> FloatArray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
