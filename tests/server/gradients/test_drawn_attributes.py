"""Rules against central differences in float64, over attributes, axes and shapes that hypothesis draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

Array = npt.NDArray[np.float64]
EXAMPLES = 25


@dataclass
class Case:
    """Nodes from ``x`` to ``p``: squared they are the model, so that each element has a derivative of its own.

    Attributes:
        nodes: the nodes.
        shape: of one sample.
        constants: by name.
        opset: of the graph.
        low: least absolute value of an operand, far above the step of the differences.
        spread: whether all values are at least 0.05 apart, so that no maximum or order changes within a step.
        positive: whether operands are positive.
        bound: greatest absolute value.
    """

    nodes: list[onnx.NodeProto]
    shape: tuple[int, ...]
    constants: dict[str, npt.NDArray] = field(default_factory=dict)
    opset: int = 21
    low: float = 0.05
    spread: bool = False
    positive: bool = False
    bound: float = 2.0


def node(op_type: str, *inputs: str, out: str = "p", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, out.split(), **attributes)


def values(case: Case, seed: int) -> Array:
    generator = np.random.default_rng(seed)
    shape = (2, *case.shape)
    if case.spread:
        flat = (generator.permutation(int(np.prod(shape))) + 0.5) * 0.05
        flat = flat if case.positive else flat - flat.mean()
        return flat.reshape(shape)
    x = generator.uniform(case.low, case.bound, shape)
    return x if case.positive else x * generator.choice([-1.0, 1.0], shape)


sizes = st.integers(1, 4)
flags = st.integers(0, 1)
seeds = st.integers(0, 1000)


def rng(draw) -> np.random.Generator:
    return np.random.default_rng(draw(seeds))


@st.composite
def top_k(draw):
    shape = (draw(st.integers(2, 4)), draw(st.integers(2, 4)))
    axis = draw(st.sampled_from([1, 2, -1]))
    k = draw(st.integers(1, (2, *shape)[axis]))
    attributes = {"largest": draw(flags), "sorted": draw(flags)}
    return Case([node("TopK", "x", "k", out="p i", axis=axis, **attributes)], shape, {"k": np.array([k])}, spread=True)


@st.composite
def cum_sum(draw):
    attributes = {"exclusive": draw(flags), "reverse": draw(flags)}
    axis = np.array(draw(st.sampled_from([1, 2, -1, -2])))
    return Case([node("CumSum", "x", "a", **attributes)], (draw(sizes), draw(sizes)), {"a": axis})


@st.composite
def gather_nd(draw):
    rows, columns = draw(st.integers(2, 4)), draw(st.integers(2, 4))
    picked = draw(st.integers(1, 5))
    # The batch is moved away, except where it is the batch of the operator too.
    batch = draw(st.integers(0, 2))
    if batch == 0:
        depth = draw(st.integers(1, 2))
        index = np.stack([rng(draw).integers(-n, n, picked) for n in (rows, columns)[:depth]], axis=-1)
        before = [node("Transpose", "x", out="t", perm=[1, 2, 0])]
        after = [node("Transpose", "g", perm=[1, 0] if depth == 2 else [2, 0, 1])]
        return Case([*before, node("GatherND", "t", "i", out="g"), *after], (rows, columns), {"i": index})
    if batch == 1:  # one row of picks per row of the operand
        index = rng(draw).integers(0, columns, (rows, picked, 1))
        before = [node("Transpose", "x", out="t", perm=[1, 2, 0])]
        after = [node("Transpose", "g", perm=[2, 0, 1])]
    else:
        index = rng(draw).integers(0, 3, (rows, columns, 1))
        before = [node("Transpose", "x", out="t", perm=[1, 2, 3, 0])]
        after = [node("Transpose", "g", perm=[2, 0, 1])]
        nodes = [*before, node("GatherND", "t", "i", out="g", batch_dims=2), *after]
        return Case(nodes, (rows, columns, 3), {"i": index})
    return Case([*before, node("GatherND", "t", "i", out="g", batch_dims=1), *after], (rows, columns), {"i": index})


@st.composite
def scatter_nd(draw):
    rows, columns = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    reduction = draw(st.sampled_from(["none", "add", "max", "min"]))
    places = rng(draw).permutation(rows)[: draw(st.integers(1, rows))]
    if reduction != "none" and draw(flags):
        places = np.concatenate([places, places[:1]])
    nodes = [
        node("Transpose", "x", out="t", perm=[1, 2, 0]),
        node("Gather", "t", "from", out="rows", axis=0),
        node("Mul", "rows", "scale", out="u"),
        node("ScatterND", "t", "i", "u", out="m", reduction=reduction),
        node("Transpose", "m", perm=[2, 0, 1]),
    ]
    scale = rng(draw).uniform(0.6, 1.4, (len(places), 1, 1))
    return Case(
        nodes, (rows, columns), {"i": places[:, None], "from": places[::-1].copy(), "scale": scale}, spread=True
    )


@st.composite
def elements(draw):
    """ScatterElements on one row: the batch is the last axis, and every sample has the same places."""
    rows = draw(st.integers(2, 5))
    reduction = draw(st.sampled_from(["none", "add", "max", "min"]))
    places = rng(draw).permutation(rows)[: draw(st.integers(1, rows))]
    if reduction != "none" and draw(flags):
        places = np.concatenate([places, places[:1]])
    nodes = [
        node("Gather", "x", "from", out="rows", axis=1),
        node("Mul", "rows", "scale", out="u"),
        node("Shape", "u", out="size"),
        node("Expand", "i", "size", out="all"),
        node("ScatterElements", "x", "all", "u", axis=1, reduction=reduction),
    ]
    scale = rng(draw).uniform(0.6, 1.4, (1, len(places)))
    return Case(nodes, (rows,), {"i": places[None], "from": places[::-1].copy(), "scale": scale}, spread=True)


@st.composite
def gather_elements(draw):
    rows, columns = draw(st.integers(2, 4)), draw(st.integers(2, 4))
    index = rng(draw).integers(-columns, columns, (rows, draw(st.integers(1, 5))))
    nodes = [
        node("Shape", "x", out="batch", start=0, end=1),
        node("Concat", "batch", "rest", out="size", axis=0),
        node("Expand", "i", "size", out="all"),
        node("GatherElements", "x", "all", axis=2),  # ONNX's reference evaluator takes no negative one
    ]
    return Case(nodes, (rows, columns), {"i": index, "rest": np.array(index.shape)})


@st.composite
def lp_normalization(draw):
    # Positive operands: ONNX's reference leaves the absolute value out of the 1-norm.
    p, axis = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2, -1, -2]))
    return Case([node("LpNormalization", "x", axis=axis, p=p)], (draw(sizes), draw(sizes)), positive=True, low=0.3)


@st.composite
def blocks(draw):
    size, out = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    height, width = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    if draw(flags):
        mode = draw(st.sampled_from(["DCR", "CRD"]))
        return Case([node("DepthToSpace", "x", blocksize=size, mode=mode)], (out * size**2, height, width))
    return Case([node("SpaceToDepth", "x", blocksize=size)], (out, height * size, width * size))


REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "SumSquare", "LogSumExp")


@st.composite
def reduction(draw):
    op_type = "Reduce" + draw(st.sampled_from(REDUCTIONS))
    axes = draw(st.sampled_from([[1], [2], [-1], [1, 2], [2, -3], [-1, 1, 2]]))
    shape = (draw(sizes), draw(sizes), draw(sizes))
    noop = draw(flags)
    axes = [] if noop and draw(flags) and op_type == "ReduceSum" else axes
    attributes = {"keepdims": draw(flags), "noop_with_empty_axes": noop}
    positive = op_type == "ReduceLogSum"
    spread = op_type in ("ReduceMax", "ReduceMin")
    nodes = [node(op_type, "x", "a", **attributes)]
    return Case(nodes, shape, {"a": np.array(axes, np.int64)}, positive=positive, spread=spread)


@st.composite
def product_with_zeros(draw):
    """Zeros of the operand: a mask that is a constant, so that differences see the derivative there too."""
    rows, columns = draw(sizes), draw(st.integers(1, 4))
    shift = rng(draw).uniform(0.5, 2, (rows, columns)) * rng(draw).choice([0.0, 1.0], (rows, columns))
    nodes = [
        node("Mul", "x", "nought", out="z"),
        node("Add", "z", "shift", out="f"),
        node("ReduceProd", "f", "a", out="r", keepdims=draw(flags)),
        node("Add", "r", "one"),
    ]
    constants = {"nought": np.full(1, 1e-3), "shift": shift, "a": np.array([2]), "one": np.array(1.0)}
    return Case(nodes, (rows, columns), constants)


@st.composite
def modulo(draw):
    divisor = rng(draw).uniform(0.7, 1.5, draw(st.sampled_from([(), (3,), (2, 1)])))
    names = ["x", "c"]
    return Case([node("Mod", *names, fmod=1)], (2, 3), {"c": divisor}, low=0.1, bound=0.6)


@st.composite
def several(draw):
    op_type = draw(st.sampled_from(["Max", "Min", "Sum", "Mean"]))
    constants = {f"c{k}": rng(draw).uniform(-1, 1, s) + 0.013 for k, s in enumerate([(3,), (2, 1), ()])}
    chosen = draw(st.lists(st.sampled_from([*constants, "n"]), max_size=3, unique=True))
    kept = {k: v for k, v in constants.items() if k in chosen}
    return Case([node("Neg", "x", out="n"), node(op_type, "x", *chosen)], (2, 3), kept, spread=True)


@st.composite
def prelu(draw):
    slope = rng(draw).uniform(-0.5, 0.9, draw(st.sampled_from([(), (1,), (4,), (3, 1), (3, 4), (1, 3, 4)])))
    return Case([node("PRelu", "x", "s")], (3, 4), {"s": slope})


@st.composite
def instance_normalization(draw):
    spatial = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    channels = draw(st.integers(1, 3))
    scale, bias = rng(draw).uniform(-2, 2, (2, channels))
    eps = draw(st.sampled_from([1e-3, 0.1]))
    return Case(
        [node("InstanceNormalization", "x", "s", "b", epsilon=eps)], (channels, *spatial), {"s": scale, "b": bias}
    )


@st.composite
def group_normalization(draw):
    groups, each = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = (groups * each, *draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
    scale, bias = rng(draw).uniform(-2, 2, (2, groups * each))
    # The text of the operator works in float32 unless it is told otherwise.
    attributes = {"epsilon": draw(st.sampled_from([0.01, 0.1])), "stash_type": onnx.TensorProto.DOUBLE}
    nodes = [node("GroupNormalization", "x", "s", "b", num_groups=groups, **attributes)]
    return Case(nodes, shape, {"s": scale, "b": bias})


@st.composite
def layer_normalization(draw):
    op_type = draw(st.sampled_from(["LayerNormalization", "RMSNormalization"]))
    shape = (draw(sizes), draw(sizes), draw(sizes))
    axis = draw(st.sampled_from([1, 2, 3, -1, -2]))
    scale, bias = rng(draw).uniform(-2, 2, (2, *(2, *shape)[axis:]))
    attributes = {"epsilon": draw(st.sampled_from([0.01, 0.1]))}
    more = ["b"] if op_type == "LayerNormalization" and draw(flags) else []
    constants = {"s": scale, "b": bias} if more else {"s": scale}
    return Case([node(op_type, "x", "s", *more, axis=axis, **attributes)], shape, constants, opset=23)


@st.composite
def pad(draw):
    mode = draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    shape = (draw(st.integers(2, 4)), draw(st.integers(2, 4)))
    pads = [draw(st.integers(0, shape[k % 2] - 1)) for k in range(4)]
    axes = draw(st.sampled_from([[1, 2], [2, 1], [-2, -1]]))
    order = [(a % 3) - 1 for a in axes]
    amounts = np.array([pads[o] for o in order] + [pads[2 + o] for o in order])
    return Case([node("Pad", "x", "a", "", "axes", mode=mode)], shape, {"a": amounts, "axes": np.array(axes)})


@st.composite
def softmax(draw):
    op_type = draw(st.sampled_from(["Softmax", "LogSoftmax"]))
    return Case([node(op_type, "x", axis=draw(st.sampled_from([1, 2, 3, -1, -2, -3])))], (draw(sizes), draw(sizes), 2))


@st.composite
def gemm(draw):
    inner, rows, columns = draw(sizes), draw(sizes), draw(sizes)
    attributes = {"transA": draw(flags), "transB": draw(flags), "alpha": 0.7, "beta": 1.3}
    generator = rng(draw)
    other = generator.standard_normal((columns, inner) if attributes["transB"] else (inner, columns))
    bias = generator.standard_normal(draw(st.sampled_from([(), (1,), (columns,), (rows, 1), (rows, columns)])))
    nodes = [node("Gemm", "m", "w", "b", out="q", **attributes), node("Reshape", "q", "batched")]
    # One matrix a sample: the batch of two goes into the rows.
    if attributes["transA"]:
        first = [node("Transpose", "x", out="t", perm=[2, 0, 1]), node("Reshape", "t", "tall", out="m")]
        shape, tall = (rows, inner), np.array([inner, -1])
    else:
        first, shape, tall = [node("Reshape", "x", "tall", out="m")], (rows, inner), np.array([-1, inner])
    bias = bias if bias.ndim < 2 else bias[:1]
    constants = {"w": other, "b": bias, "tall": tall, "batched": np.array([-1, rows, columns])}
    return Case([*first, *nodes], shape, constants)


@st.composite
def lp_pool(draw):
    kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    size = draw(st.integers(kernel + 1, 6))
    pads = [draw(st.integers(0, kernel - 1)), draw(st.integers(0, kernel - 1))]
    attributes = {"kernel_shape": [kernel], "strides": [stride], "pads": pads, "p": draw(st.sampled_from([1, 2, 3]))}
    return Case([node("LpPool", "x", **attributes)], (2, size), opset=18)


@st.composite
def dft(draw):
    parts = draw(st.sampled_from([1, 2]))
    length = draw(st.sampled_from([None, 3, 6]))
    attributes = {"inverse": draw(flags) if parts == 2 else 0}
    attributes["onesided"] = draw(flags) if parts == 1 else 0
    axis = draw(st.sampled_from([1, 2, -2, -3]))
    constants = {"axis": np.array(axis)} | ({} if length is None else {"length": np.array(length)})
    name = "" if length is None else "length"
    return Case([node("DFT", "x", name, "axis", **attributes)], (4, 5, parts), constants)


@st.composite
def stft(draw):
    length, step = draw(st.sampled_from([4, 5])), draw(st.integers(1, 3))
    window = rng(draw).uniform(0.2, 1, length)
    nodes = [node("STFT", "x", "step", "window", "length", onesided=draw(flags))]
    return Case(nodes, (9, 1), {"step": np.array(step), "window": window, "length": np.array(length)})


@st.composite
def compress(draw):
    axis = draw(st.sampled_from([1, 2, -1]))
    shape = (draw(st.integers(2, 4)), draw(st.integers(2, 4)))
    condition = rng(draw).random((2, *shape)[axis]) < 0.6
    condition[0] = True
    return Case([node("Compress", "x", "c", axis=axis)], shape, {"c": condition})


@st.composite
def reverse_sequence(draw):
    steps, rows = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    lengths = rng(draw).integers(1, steps + 1, rows)
    time, batch = draw(st.sampled_from([(1, 2), (2, 1)]))
    shape = (steps, rows) if time == 1 else (rows, steps)
    nodes = [
        node("Transpose", "x", out="t", perm=[1, 2, 0]),
        node("ReverseSequence", "t", "n", out="r", time_axis=time - 1, batch_axis=batch - 1),
        node("Transpose", "r", perm=[2, 0, 1]),
    ]
    return Case(nodes, shape, {"n": lengths})


@st.composite
def unary(draw):
    name, attributes, bound = draw(
        st.sampled_from([
            ("Acos", {}, 0.9), ("Asin", {}, 0.9), ("Atan", {}, 2.0), ("Asinh", {}, 2.0), ("Atanh", {}, 0.9),
            ("Tan", {}, 1.2), ("Sinh", {}, 2.0), ("Cosh", {}, 2.0), ("Shrink", {"lambd": 0.02, "bias": 0.3}, 2.0),
            ("Swish", {"alpha": 1.7}, 2.0), ("Elu", {"alpha": 0.4}, 2.0), ("Selu", {"alpha": 1.1, "gamma": 0.9}, 2.0),
            ("HardSigmoid", {"alpha": 0.1, "beta": 0.4}, 2.0), ("LeakyRelu", {"alpha": 0.7}, 2.0),
        ])
    )  # fmt: skip
    return Case([node(name, "x", **attributes)], (2, draw(sizes)), bound=bound, opset=24)


@st.composite
def acosh(draw):
    return Case([node("Acosh", "x")], (2, draw(sizes)), positive=True, low=1.2, bound=3.0)


@st.composite
def slices(draw):
    shape = (draw(st.integers(2, 5)), draw(st.integers(2, 5)))
    axes = draw(st.sampled_from([[1], [2], [-1], [2, 1]]))
    steps = [draw(st.sampled_from([1, 2, -1, -2])) for _ in axes]
    found = {"s": [], "e": []}
    for axis, step in zip(axes, steps, strict=True):
        n = (2, *shape)[axis]
        first, last = sorted(draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))
        found["s"].append(first if step > 0 else last)
        found["e"].append(last + 1 if step > 0 else first - 1 - n * (first == 0))
    constants = {k: np.array(v) for k, v in {**found, "a": axes, "t": steps}.items()}
    return Case([node("Slice", "x", "s", "e", "a", "t")], shape, constants)


@st.composite
def moves(draw):
    kind = draw(st.sampled_from(["Transpose", "Unsqueeze", "Squeeze", "Tile", "Trilu", "Split", "Concat", "Expand"]))
    shape = (draw(st.integers(1, 3)), draw(st.integers(2, 4)))
    if kind == "Transpose":
        return Case([node(kind, "x", perm=[0, *draw(st.permutations([1, 2]))])], shape)
    if kind == "Unsqueeze":
        axes = draw(st.sampled_from([[1], [-1], [1, 4], [2, 3]]))
        return Case([node(kind, "x", "a")], shape, {"a": np.array(axes)})
    if kind == "Squeeze":
        return Case(
            [node(kind, "x", "a")], (1, shape[1], 1), {"a": np.array(draw(st.sampled_from([[1], [3], [1, -1]])))}
        )
    if kind == "Tile":
        return Case([node(kind, "x", "r")], shape, {"r": np.array([1, draw(sizes), draw(sizes)])})
    if kind == "Trilu":
        return Case([node(kind, "x", "k", upper=draw(flags))], shape, {"k": np.array(draw(st.integers(-2, 2)))})
    if kind == "Split":
        axis = draw(st.sampled_from([2, -1]))
        parts = [1, shape[1] - 1]
        nodes = [node(kind, "x", "n", out="a b", axis=axis), node("Mul", "a", "b")]
        return Case(nodes, shape, {"n": np.array(parts)})
    if kind == "Concat":
        nodes = [node("Sigmoid", "x", out="s"), node(kind, "x", "s", "x", axis=draw(st.sampled_from([1, 2, -2])))]
        return Case(nodes, shape)
    return Case([node(kind, "x", "w")], (1, shape[1]), {"w": np.array([1, draw(sizes), 1])})


OPERATORS: dict[str, Callable] = {
    "TopK": top_k, "CumSum": cum_sum, "GatherND": gather_nd, "GatherElements": gather_elements,
    "ScatterND": scatter_nd, "ScatterElements": elements, "LpNormalization": lp_normalization,
    "DepthToSpace and SpaceToDepth": blocks, "reductions": reduction, "a product with zeros": product_with_zeros,
    "Mod": modulo, "Max, Min, Sum, Mean": several, "PRelu": prelu, "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization, "LayerNormalization and RMSNormalization": layer_normalization,
    "Pad": pad, "Softmax": softmax, "Gemm": gemm, "LpPool": lp_pool, "DFT": dft,
    "STFT": stft, "Compress": compress, "ReverseSequence": reverse_sequence, "functions of one element": unary,
    "Acosh": acosh, "Slice": slices, "what moves elements": moves,
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_a_rule_agrees_with_central_differences_whatever_the_attributes(agrees, make_case, name):
    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    @given(OPERATORS[name](), seeds)
    def check(case, seed):
        nodes = [*case.nodes, node("Mul", "p", "p", out="y")]
        agrees(make_case(nodes, case.shape, case.constants, opset=case.opset), values(case, seed))

    check()
