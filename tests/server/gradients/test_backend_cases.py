"""ONNX's own backend node cases, each turned into a check of gradients wherever its operators are differentiable.

The cases come with the installed ``onnx``. A case's float inputs are differentiated by, the others are constants. What
the differentiated graph answers is compared, along random directions, with central differences in float64 on ONNX's
reference implementation.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.backend.test.loader
import onnx.version_converter
import onnx_ir as ir
import onnxruntime as ort
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import op_scan

from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiate

Array = npt.NDArray[Any]
Feeds = dict[str, Array]

OLDEST = 18
DIRECTIONS = 1
STEPS = ((1e-5, 0.0), (1e-3, 2e-3), (2.0**-6, 1e-2))
"""Steps of the differences, each with what they may be off by themselves. The first is enough in float64."""
ATTEMPTS = 6
FLOATS = {
    TensorProto.FLOAT: 2e-4,
    TensorProto.DOUBLE: 1e-6,
    TensorProto.FLOAT16: 2e-2,
    TensorProto.BFLOAT16: 8e-2,
}
"""What may differ, relative to the gradient's length, by the type that the gradient is computed in."""

NO_RULE = {
    "Col2Im",
    "CumProd",
    "DeformConv",
    "Det",
    "GridSample",
    "Hardmax",
    "Loop",
    "MaxUnpool",
    "MelWeightMatrix",
    "OneHot",
    "OptionalGetElement",
    "RoiAlign",
    "TensorScatter",
    "Unique",
    "ai.onnx.ml::ArrayFeatureExtractor",
    "ai.onnx.ml::Binarizer",
    "ai.onnx.ml::TreeEnsemble",
    "ai.onnx.preview.training::Adagrad",
    "ai.onnx.preview.training::Adam",
    "ai.onnx.preview.training::Momentum",
    "ai.onnx.preview::FlexAttention",
}
"""Operators that are refused by name. One that gains a rule, or loses it, has to be noticed here."""
REFUSED = {
    ("BatchNormalization", "training_mode"),
    ("DequantizeLinear", "its scale depends on the input"),
    ("DequantizeLinear", "blocked quantisation"),
    ("Dropout", "training_mode"),
    ("Einsum", "an operand has an index twice"),
    ("GRU", "its weights depend on the input"),
    ("LSTM", "its weights depend on the input"),
    ("RNN", "its weights depend on the input"),
    ("LSTM", "sequence_lens"),
    ("MeanVarianceNormalization", "it normalises over the batch"),
    ("Resize", "tf_crop_and_resize"),
    ("Resize", "keep_aspect_ratio_policy"),
    ("ScatterElements", "reduction"),
    ("ScatterND", "reduction"),
}
"""What rules refuse in these cases: operator and part of the message."""
NOT_A_NUMBER = {
    "mod_float_edge_cases_fmod_0": "a remainder of division by zero or of infinity",
}
"""Cases whose gradient is NaN, by part of their name."""
AT_A_HIDDEN_KINK = {"test_l1normalization_axis_last"}
"""Cases whose own inputs are at a kink that the reference lacks: it sums for this norm without absolute values."""
UNLISTED = "refused, and in no table"
FLOOR = 1000


class Skip(Exception):  # noqa: N818
    """A case that is not taken; the reason is its message."""


@dataclass
class Tally:
    """What became of the cases."""

    taken: list[str] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[str, str] = field(default_factory=dict)
    oracles: Counter[str] = field(default_factory=Counter)

    def report(self) -> str:
        """Return the count of each, and every skipped case by name."""
        lines = [f"{reason} ({len(names)}): {', '.join(names)}" for reason, names in sorted(self.skipped.items())]
        n = sum(map(len, self.skipped.values()))
        lines += [f"FAILED {name}: {why}" for name, why in self.failed.items()]
        oracles = ", ".join(f"{count} against {name}" for name, count in self.oracles.most_common())
        return "\n".join(
            [*lines, f"backend cases: taken {len(self.taken)} ({oracles}), skipped {n}, failed {len(self.failed)}"]
        )


def is_float(info: ValueInfoProto) -> bool:
    return info.type.HasField("tensor_type") and info.type.tensor_type.elem_type in FLOATS


def in_double(model: ModelProto) -> ModelProto:
    """Return the same model with every floating-point type replaced by float64."""
    copy = ModelProto()
    copy.CopyFrom(model)
    _graph_in_double(copy.graph)
    for function in copy.functions:
        for node in function.node:
            _node_in_double(node)
    return copy


def _graph_in_double(graph: GraphProto) -> None:
    for info in [*graph.input, *graph.output, *graph.value_info]:
        if is_float(info):
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _tensor_in_double(tensor)
    for node in graph.node:
        _node_in_double(node)


def _node_in_double(node: onnx.NodeProto) -> None:
    if node.op_type in ("LayerNormalization", "RMSNormalization") and not any(
        a.name == "stash_type" for a in node.attribute
    ):
        node.attribute.append(helper.make_attribute("stash_type", TensorProto.DOUBLE))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype", "stash_type", "softmax_precision") and attribute.i in FLOATS:
            attribute.i = TensorProto.DOUBLE
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            tensor = numpy_helper.from_array(np.asarray(values, np.float64))
            attribute.CopyFrom(helper.make_attribute("value", tensor))
        elif attribute.type == AttributeProto.TENSOR:
            _tensor_in_double(attribute.t)
        elif attribute.type == AttributeProto.GRAPH:
            _graph_in_double(attribute.g)


def _tensor_in_double(tensor: TensorProto) -> None:
    if tensor.data_type in FLOATS:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


class Scan(op_scan.Scan):
    """In every direction and along every axis: ONNX's own knows only forwards along the first."""

    def __init__(self, onnx_node: onnx.NodeProto, run_params: dict[str, Any]) -> None:
        given = {a.name: list(a.ints) for a in onnx_node.attribute if a.name.startswith("scan_")}
        plain = onnx.NodeProto()
        plain.CopyFrom(onnx_node)
        del plain.attribute[:]
        plain.attribute.extend(a for a in onnx_node.attribute if a.name not in given)
        super().__init__(plain, run_params)
        self.given = given

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        first = len(args) - self.num_scan_inputs
        turned = [self.turned(v, "input", k, backwards=False) for k, v in enumerate(args[first:])]
        found = super()._run(*args[:first], *turned, **kwargs)
        return (*found[:first], *(self.turned(v, "output", k, backwards=True) for k, v in enumerate(found[first:])))

    def turned(self, value: Array, which: str, k: int, *, backwards: bool) -> Array:
        """Move the axis that is stepped along to the front, or back; turn it round where it is read from its end."""
        axis = self.given.get(f"scan_{which}_axes", [0] * (k + 1))[k]
        if self.given.get(f"scan_{which}_directions", [0] * (k + 1))[k]:
            value = np.flip(value, 0 if backwards else axis)
        return np.moveaxis(value, 0, axis) if backwards else np.moveaxis(value, axis, 0)


class Runner:
    """A model run by ONNX Runtime, or by the reference implementation where that cannot."""

    def __init__(self, model: ModelProto, *, reference: bool) -> None:
        self.names = [v.name for v in model.graph.output]
        if reference:
            self.run_: Any = ReferenceEvaluator(model, new_ops=[Scan]).run
        else:
            options = ort.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = 1
            self.run_ = ort.InferenceSession(model.SerializeToString(), options).run

    def __call__(self, feeds: Feeds) -> Feeds:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return {n: np.asarray(v) for n, v in zip(self.names, self.run_(None, feeds), strict=True)}


class Case:
    """One backend case: its model with all but the float inputs made constants, and its values."""

    def __init__(self, case: Any) -> None:
        self.name: str = case.name
        graph = case.model.graph
        if not any(map(is_float, graph.input)) or not any(map(is_float, graph.output)):
            raise Skip("no input or no output of floating point")
        if not all(v.type.HasField("tensor_type") for v in [*graph.input, *graph.output]):
            raise Skip("a sequence, an optional value or a map")
        inputs, outputs = case.data_sets[0]
        values = {info.name: value for info, value in zip(graph.input, inputs, strict=True)}
        self.expected = {info.name: as_array(v) for info, v in zip(graph.output, outputs, strict=True)}
        self.floats = [v.name for v in graph.output if is_float(v)]
        self.types = {v.name: v.type.tensor_type.elem_type for v in graph.input if is_float(v)}
        self.tolerance = max(FLOATS[v.type.tensor_type.elem_type] for v in [*graph.input, *graph.output] if is_float(v))
        self.point = {name: as_array(values[name]) for name in self.types}
        self.original = with_constants(case.model, values, self.types)
        self.model = at_least_opset_18(self.original)

    def differentiated(self) -> tuple[ModelProto, list[str]]:
        """Return the differentiated model, and by which inputs: all, or those that the rules admit.

        Where a rule cannot go back from every output, only the first is differentiated.
        """
        refusals = []
        for outputs in (self.floats, self.floats[:1]):
            self.floats = outputs
            try:
                return self._by(self.model, list(self.types)), list(self.types)
            except UnsupportedOperatorError as error:
                refusals.append(error)
            by: list[str] = []
            found: ModelProto | None = None
            for name in self.types:
                # An input that is not differentiated by has to be a constant: rules ask for the elements of some.
                others = {n: v for n, v in self.point.items() if n not in (*by, name)}
                with contextlib.suppress(UnsupportedOperatorError):
                    found = self._by(with_constants(self.model, others, [*by, name]), [*by, name])
                    by.append(name)
            if found is not None:
                return found, by
        raise refusals[0]

    def _by(self, model: ModelProto, names: Sequence[str]) -> ModelProto:
        return ir.to_proto(differentiate(ir.from_proto(model), names, outputs=self.floats))


def as_array(value: Any) -> Array:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def with_constants(model: ModelProto, values: Mapping[str, Any], keep: Sequence[str]) -> ModelProto:
    """Return the model with every input but those to keep made an initializer."""
    copy = ModelProto()
    copy.CopyFrom(model)
    kept = []
    for info in copy.graph.input:
        if info.name in keep:
            kept.append(info)
            continue
        value = values[info.name]
        tensor = value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value))
        tensor.name = info.name
        copy.graph.initializer.append(tensor)
    kept = [ValueInfoProto.FromString(v.SerializeToString()) for v in kept]
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    return copy


def at_least_opset_18(model: ModelProto) -> ModelProto:
    if all(o.version >= OLDEST for o in model.opset_import if o.domain in ("", "ai.onnx")):
        return model
    if any(node.op_type == "Scan" and model.opset_import[0].version < 9 for node in model.graph.node):
        raise Skip("a Scan with a batch axis, as in opset 8: it is converted to one without")
    try:
        return onnx.version_converter.convert_version(model, OLDEST)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise Skip("its opset cannot be converted to 18") from error


def depends_on_cotangent(model: ModelProto, name: str) -> bool:
    """Tell whether a result is computed from any cotangent, or is zero whatever they are."""
    makers = {out: node for node in model.graph.node for out in node.output}
    stack, seen = [name], set()
    while stack:
        value = stack.pop()
        if value.startswith("cotangent:"):
            return True
        if value in makers and value not in seen:
            seen.add(value)
            stack += makers[value].input
    return False


class Oracle:
    """The weighted sum of a case's float outputs, and its differences along a direction."""

    def __init__(self, case: Case, generator: np.random.Generator) -> None:
        self.case = case
        self.steps, self.name = STEPS, "the reference in float64"
        self.dtype: Any = np.float64
        try:
            self.run = Runner(in_double(case.original), reference=True)
            self._prepare(generator)
        except Exception:  # noqa: BLE001 - whatever stops the reference, ONNX Runtime may still run the case
            self.steps, self.name = STEPS[2:], "ONNX Runtime in float32"
            self.dtype = None
            try:
                self.run = Runner(case.original, reference=False)
                self._prepare(generator)
            except Exception as error:
                raise Skip("neither the reference nor ONNX Runtime runs the case") from error

    def _prepare(self, generator: np.random.Generator) -> None:
        outputs = self.run(self.cast(self.case.point))
        self.cotangents = {}
        for name in self.case.floats:
            want, got = self.case.expected[name].astype(np.float64), outputs[name].astype(np.float64)
            np.testing.assert_allclose(got, want, rtol=3e-2, atol=3e-2)
            weights = generator.standard_normal(got.shape)
            self.cotangents[name] = np.where(np.isfinite(got), weights, 0.0)

    def cast(self, point: Feeds) -> Feeds:
        return {n: np.asarray(v.astype(self.dtype or self.case.point[n].dtype)) for n, v in point.items()}

    def value(self, point: Feeds) -> float:
        outputs = self.run(self.cast(point))
        if any(outputs[n].shape != c.shape for n, c in self.cotangents.items()):
            return float("nan")  # the number of results changes here
        terms = (np.where(c == 0, 0.0, outputs[n].astype(np.float64)) * c for n, c in self.cotangents.items())
        return float(sum(np.sum(t) for t in terms))

    def slope(self, point: Feeds, name: str, direction: Array, step: float) -> tuple[float, float]:
        """Return the central difference, and by how much the two one-sided ones differ."""
        x = point[name].astype(np.float64)
        here = self.value(point)
        up = self.value({**point, name: x + step * direction})
        down = self.value({**point, name: x - step * direction})
        return (up - down) / (2 * step), abs(up - 2 * here + down) / step


def points(case: Case, generator: np.random.Generator) -> Iterator[Feeds]:
    """Yield the case's own inputs, then others near them: its own may lie at a kink."""
    if case.name not in AT_A_HIDDEN_KINK:
        yield {n: v.astype(np.float64) for n, v in case.point.items()}
    for _ in range(ATTEMPTS):
        yield {
            n: v.astype(np.float64) * (1 + 0.02 * generator.random(v.shape)) + 0.01 * generator.random(v.shape)
            for n, v in case.point.items()
        }


def check(case: Case) -> str:
    """Compare gradients with differences; return what the oracle was."""
    proto, by = case.differentiated()
    generator = np.random.default_rng(11)
    oracle = Oracle(case, generator)
    flows = [name for name in by if depends_on_cotangent(proto, f"gradient:{name}")]
    feeds = {f"cotangent:{n}": c for n, c in oracle.cotangents.items()}
    gradient = gradient_of(proto, case, feeds)
    for point in points(case, generator):
        near = {n: v.astype(case.point[n].dtype).astype(np.float64) for n, v in point.items()}
        got = gradient(near)
        if all(agrees(case, oracle, near, name, got[f"gradient:{name}"], generator) for name in by):
            break
    else:
        raise AssertionError("smooth at no point that was tried")
    if not flows:
        raise Skip("zero derivative: nothing differentiable leads from an input to an output")
    return oracle.name


def gradient_of(proto: ModelProto, case: Case, cotangents: Feeds) -> Any:
    """Return a function from a point to the gradients there."""
    kept = {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in proto.graph.input}
    fixed = {n: c.astype(kept[n]) for n, c in cotangents.items()}

    def feeds(point: Feeds) -> Feeds:
        return fixed | {n: np.asarray(v.astype(kept[n])) for n, v in point.items() if n in kept}

    try:
        run = Runner(proto, reference=False)
        run(feeds(case.point))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has not every operator in every type
        run = by_reference(proto, case, feeds(case.point), error)
    return lambda point: run(feeds(point))


def by_reference(proto: ModelProto, case: Case, feeds: Feeds, why: Exception) -> Runner:
    """Return the differentiated model on the reference; skips a case that ONNX Runtime cannot run as it is."""
    try:
        run = Runner(proto, reference=True)
        run(feeds)
        return run
    except Exception as error:  # noqa: BLE001
        try:
            Runner(case.model, reference=False)(case.point)
        except Exception:  # noqa: BLE001
            raise Skip("ONNX Runtime does not run the case itself") from error
        raise AssertionError(f"the differentiated model does not run: {why}; {error}") from why


def agrees(
    case: Case, oracle: Oracle, point: Feeds, name: str, gradient: Array, generator: np.random.Generator
) -> bool:
    """Check one input's gradient along random directions; tell whether the point is smooth enough to say."""
    gradient = gradient.astype(np.float64)
    if gradient.shape != point[name].shape:
        raise AssertionError(f"gradient by '{name}' has shape {gradient.shape}, the input {point[name].shape}")
    length = float(np.linalg.norm(gradient))
    known = [why for part, why in NOT_A_NUMBER.items() if part in case.name]
    if known and not np.isfinite(length):
        raise Skip(f"the gradient is not a number: {known[0]}")
    for _ in range(DIRECTIONS):
        direction = generator.standard_normal(gradient.shape)
        got, smooth = float(np.sum(gradient * direction)), True
        # Some operators of the reference work in float32 whatever comes in: those need the longer steps.
        for step, tolerance in oracle.steps:
            want, bend = oracle.slope(point, name, direction, step)
            again, _ = oracle.slope(point, name, direction, step / 2)
            scale = max(length if np.isfinite(length) else 0.0, abs(want), 1e-2)
            allowed = max(case.tolerance, tolerance) * scale
            even = abs(want - again) <= allowed and bend <= max(10 * allowed, 1e-2 * scale)
            if even and abs(got - want) <= allowed:
                break
            smooth = smooth and even
        else:
            if not smooth:
                return False
            raise AssertionError(f"gradient by '{name}' along a direction: got {got:.6g}, expected {want:.6g}")
    return True


def reason(refusal: str) -> str:
    """Return which entry of the tables a refusal is; fails for one that is in none."""
    operator = re.search(r"has no rule for operator (\S+)", refusal)
    if operator is not None and operator[1] in NO_RULE:
        return f"no rule for {operator[1]}"
    for name, part in sorted(REFUSED):
        if part in refusal and re.match(rf"(operator )?{name} ", refusal):
            return f"refused: {name}: {part}"
    return f"{UNLISTED}: {refusal}"


def visit(case: Any, tally: Tally) -> None:
    """Check one case and file it."""
    try:
        oracle = check(Case(case))
        tally.taken.append(case.name)
        tally.oracles[oracle] += 1
    except Skip as skip:
        tally.skipped[str(skip)].append(case.name)
    except UnsupportedOperatorError as refusal:
        tally.skipped[reason(str(refusal))].append(case.name)
    except Exception as error:  # noqa: BLE001 - every case is reported, not the first that fails only
        tally.failed[case.name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"


def test_gradients_of_the_backend_cases_agree_with_differences(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cases overflow on purpose while they are made
        cases = onnx.backend.test.loader.load_model_tests(kind="node")
    tally = Tally()
    for case in cases:
        visit(case, tally)
    report = tally.report()
    with capsys.disabled():
        print(f"\n{report.splitlines()[-1]}")
    print(report)
    assert not tally.failed, report
    assert not [r for r in tally.skipped if r.startswith(UNLISTED)], report
    assert len(tally.taken) >= FLOOR, report
    # An entry that nothing is skipped for any more is out of date.
    listed = {f"no rule for {name}" for name in NO_RULE} | {f"refused: {name}: {part}" for name, part in REFUSED}
    assert listed <= set(tally.skipped), sorted(listed - set(tally.skipped))
