"""(h) Methods on the CountNet against Captum's and shap's, one window, one thread."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.input_x_gradient import NO_TORCH, interpreter
from tests.bench.measure import Row, Section, Timed, local, medians, milliseconds, one_core
from tests.bench.subject import Subject, count_net

EPSILON = 1e-6
STEPS, COALITIONS = 32, 2048
GROUPS = 12
# Float32 through the same arithmetic in another order. DeepLIFT and LRP divide by small differences.
ROUNDING, QUOTIENTS = 1e-4, 1e-3
# Shapley values of 56 players from 2,048 coalitions: what chance leaves on both sides, as a share of their length.
# Against 65,536 coalitions ours and shap's, drawn in pairs, are off by 0.1 each, Captum's, unpaired, by 0.36.
CHANCE = {"shap": 0.2, "Captum": 0.5}
NO_SHAP = "skipped: no shap (make bench-peers)"


@dataclass(frozen=True)
class Against:
    """One side of a comparison that is not ours.

    Attributes:
        name: the peer's, of its method.
        whose: the library.
        aim: our time as a share of its.
        tolerance: how far answers may differ.
    """

    name: str
    whose: str
    aim: float
    tolerance: float = ROUNDING


@dataclass(frozen=True)
class Case:
    """One method.

    Attributes:
        said: what is measured, for the table.
        method: by its name; parameters: given with it.
        peers: what it is compared with.
        is_drawn: whether answers differ by chance: then their distance is a share of their length, else the largest
            difference a share of the largest value.
        rounds, times: how often each side is run.
    """

    said: str
    method: str
    parameters: dict[str, Any]
    peers: Sequence[Against]
    is_drawn: bool = False
    rounds: int = 40
    times: int = 4


CASES = (
    Case(
        f"integrated gradients, {STEPS} steps",
        "integrated_gradients",
        {"n_steps": STEPS},
        [Against("integrated_gradients", "Captum", 0.36)],
    ),
    Case(f"SmoothGrad, {STEPS} draws", "smoothgrad", {"n": STEPS}, [Against("smoothgrad", "Captum", 0.6)]),
    Case("guided backprop", "guided_backprop", {}, [Against("guided_backprop", "Captum", 0.2)], times=10),
    Case("DeepLIFT", "deep_lift", {}, [Against("deep_lift", "Captum", 0.2, QUOTIENTS)], times=10),
    Case(
        "LRP, ε in every layer",
        "lrp",
        {"preset": "epsilon", "epsilon": EPSILON},
        [Against("lrp", "Captum", 0.2, QUOTIENTS)],
        times=10,
    ),
    Case("occlusion of each tone", "occlusion", {}, [Against("occlusion", "Captum", 0.6)]),
    Case(
        f"KernelSHAP, each tone, {COALITIONS:,} coalitions",
        "kernel_shap",
        {"budget": COALITIONS},
        [Against(*peer, CHANCE[peer[1]]) for peer in (("kernel_shap", "Captum", 0.15), ("shap_kernel", "shap", 0.5))],
        is_drawn=True,
        rounds=9,
        times=1,
    ),
)


@one_core()
def measure() -> Section:
    """Time each method and its peers, turn by turn, and compare what they say."""
    subject = count_net()
    with _peers(subject) as peers:
        rows = [row for case in CASES for row in _rows(subject, case, peers)]
        return Section([*rows, _lrp_preset(subject), _exact(subject)], _notes(subject, peers))


def _rows(subject: Subject, case: Case, peers: Peers | None) -> Iterator[Row]:
    """Yield a row for each peer, or one that says that there is none."""
    x, prepared = subject.windows[:1], subject.explainer.prepare(case.method, None, case.parameters)
    timed: dict[str, Timed] = {"ours": local(lambda: prepared.run(x))}
    found = [against for against in case.peers if peers is not None and against.whose in peers.versions]
    if peers is not None:
        timed |= {against.name: peers.timed(against.name) for against in found}
    seconds = medians(timed, rounds=case.rounds, times=case.times)
    for against in case.peers:
        what, aim = f"(h) {case.said}", f"≤ {against.aim}"
        if peers is None or against not in found:
            missing = NO_TORCH if against.whose == "Captum" else NO_SHAP
            yield Row(what, milliseconds(seconds["ours"]), missing, aim=aim)
            continue
        ratio = seconds["ours"] / seconds[against.name]
        differs = _difference(subject, case, peers.answer(against.name))
        same = differs <= against.tolerance
        yield Row(
            what,
            milliseconds(seconds["ours"]),
            f"{against.whose} {milliseconds(seconds[against.name])}; {'' if same else 'OTHER ANSWERS: '}{differs:.1g}",
            f"{ratio:.3f}",
            aim,
            same and ratio <= against.aim,
        )


def _difference(subject: Subject, case: Case, answer: dict[str, Any]) -> float:
    """Return how far the peer's answer is from ours; where it drew noise, ours is asked for with the same."""
    theirs = np.asarray(answer["found"], np.float64)
    given = case.parameters if answer["drawn"] is None else {"noise": answer["drawn"]}
    attribution = subject.explainer.prepare(case.method, None, given).run(subject.windows[:1])
    ours = attribution.cells if attribution.units is None else attribution.units
    assert ours is not None  # every method of these gives one of the two
    apart = ours.astype(np.float64) - theirs.reshape(ours.shape)
    if case.is_drawn:
        return float(np.linalg.norm(apart) / np.linalg.norm(theirs))
    return float(np.abs(apart).max() / np.abs(theirs).max())


def _lrp_preset(subject: Subject) -> Row:
    """Time LRP as it comes, with γ in convolutions: Captum's γ is for inputs of one sign, and says something else."""
    prepared = subject.explainer.prepare("lrp")
    seconds = medians({"ours": local(lambda: prepared.run(subject.windows[:1]))}, rounds=10, times=20)
    return Row("(h) LRP as it comes (γ in convolutions)", milliseconds(seconds["ours"]))


def _exact(subject: Subject) -> Row:
    """Time exact Shapley values of groups of neighbouring tones, and count evaluations of the model."""
    rows = subject.windows.shape[1]
    groups = [row * GROUPS // rows for row in range(rows)]
    prepared = subject.explainer.prepare("shapley_exact", None, {"players": groups, "axis": 1})
    x = subject.windows[:1]
    seconds = medians({"ours": local(lambda: prepared.run(x))}, rounds=5, times=1)["ours"]
    evaluations = prepared.run(x).evaluations
    said = f"{milliseconds(seconds)}, {evaluations / seconds:,.0f} evaluations/s"
    return Row(f"(h) exact Shapley values, {GROUPS} groups, {evaluations:,} evaluations", said)


class Peers:
    """Captum and shap, in their own interpreter.

    Attributes:
        versions: of each library, by the name that the table has it by.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        said = self._read()
        names = {"captum": "Captum", "shap": "shap", "torch": "torch"}
        self.versions: dict[str, str] = {names[name]: version for name, version in said.items()}

    def timed(self, name: str) -> Timed:
        """Return what times a method."""
        return lambda times: self._ask(name, times)

    def answer(self, name: str) -> dict[str, Any]:
        """Return what a method attributes, and the noise that it drew."""
        found: dict[str, Any] = self._ask(name, 0)
        return found

    def _ask(self, name: str, times: int) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name} {times}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the peers ended: their error is above")
        return json.loads(line)


@contextmanager
def _peers(subject: Subject) -> Iterator[Peers | None]:
    """Run the peers while they are needed; None where there is no torch."""
    python = interpreter()
    if python is None:
        yield None
        return
    x, explainer = subject.windows[:1], subject.explainer
    baseline = explainer.prepare("deep_lift").windows(x).baseline
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.npz"
        target = int(explainer.predict(x).class_index[0])
        np.savez(given, **subject.weights, x=x, baseline=baseline.reshape(x.shape), target=target, epsilon=EPSILON)
        command = [python, Path(__file__).with_name("methods_peer.py"), given]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield Peers(process)
            finally:
                process.terminate()


def _notes(subject: Subject, peers: Peers | None) -> str:
    versions = "not measured (`make bench-peers`)"
    if peers is not None:
        versions = ", ".join(f"{name} {version}" for name, version in peers.versions.items())
    return (
        f"Model and window: {subject.said}, the first of them. Ours is `Prepared.run`, which finds the predicted class "
        "and returns predictions, cells, tones and, where the method has them, the convergence delta or standard "
        f"errors. The peers ({versions}) run in an interpreter of their own, one thread, the same core, on a network "
        "of the same weights without the confidence head; they are told the class, asked for no delta, and evaluate "
        "as many points in one pass as they offer to. Beside their time stands how far their answers are from ours: "
        f"the largest difference as a share of the largest value (at most {ROUNDING:.0e}; {QUOTIENTS:.0e} for DeepLIFT "
        "and LRP, which divide by small differences), SmoothGrad with the same noise; for KernelSHAP, where both draw "
        "coalitions of their own, the distance as a share of the length (at most "
        f"{CHANCE['shap']} for shap, {CHANCE['Captum']} for Captum, which draws unpaired). A row whose answers are "
        "further apart says so, and is missed. LRP is compared with ε in every layer, where both mean the same."
    )
