"""What axes lie along: checked by coordinates that are sent through the graph, and case by case."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tonescope_server.gradients.axes import Axis, Part, along_input
from tonescope_server.gradients.prepass import infer_shapes

SHAPE = (4, 6, 8)
CHAINS = 150
EXTRA = -1.0  # what a chain puts around a grid


class Chain:
    """Nodes that only move entries about, drawn one after the other."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.constants = [], {}
        self.name, self.shape = "x", [2, *SHAPE]
        self.batch = 0  # where the axis is that has the batch in it

    def op(self, op_type, shape, *constants, first=True, **attributes):
        names = []
        for value in constants:
            names.append(f"c{len(self.constants)}")
            self.constants[names[-1]] = np.asarray(value)
        made = f"v{len(self.nodes)}"
        operands = [self.name, *names] if first else [*names, self.name]
        self.nodes.append(helper.make_node(op_type, operands, [made], **attributes))
        self.name, self.shape = made, list(shape)

    def draw(self):
        getattr(self, self.random.choice(["turn", "split", "merge", "cut", "surround", "widen"]))()

    def turn(self):
        perm = [int(i) for i in self.random.permutation(len(self.shape))]
        self.batch = perm.index(self.batch)
        self.op("Transpose", [self.shape[i] for i in perm], perm=perm)

    def reshape(self, shape, batch):
        self.batch = batch
        self.op("Reshape", shape, [-1 if i == batch else size for i, size in enumerate(shape)])

    def split(self):
        axis = int(self.random.integers(len(self.shape)))
        factors = [f for f in (2, 3, 4) if self.shape[axis] % f == 0 and self.shape[axis] > f]
        if axis == self.batch or not factors or len(self.shape) > 5:
            return
        inner = int(self.random.choice(factors))
        parts = [self.shape[axis] // inner, inner]
        self.reshape([*self.shape[:axis], *parts, *self.shape[axis + 1 :]], self.batch + (axis < self.batch))

    def merge(self):
        if len(self.shape) < 3:
            return
        axis = int(self.random.integers(len(self.shape) - 1))
        size = self.shape[axis] * self.shape[axis + 1]
        batch = self.batch - (axis < self.batch)
        self.reshape([*self.shape[:axis], size, *self.shape[axis + 2 :]], batch)

    def cut(self):
        axis = int(self.random.integers(len(self.shape)))
        if axis == self.batch or self.shape[axis] < 3:
            return
        start = int(self.random.integers(2))
        shape = [size - start if i == axis else size for i, size in enumerate(self.shape)]
        self.op("Slice", shape, [start], [np.iinfo(np.int64).max], [axis])

    def surround(self):
        axis = int(self.random.integers(len(self.shape)))
        if axis == self.batch or self.shape[self.batch] != 2:
            return
        block = [1 if i == axis else size for i, size in enumerate(self.shape)]
        shape = [size + (i == axis) for i, size in enumerate(self.shape)]
        first = bool(self.random.integers(2))
        self.op("Concat", shape, np.full(block, EXTRA, np.float32), first=first, axis=axis)

    def widen(self):
        if len(self.shape) > 5:
            return
        axis = int(self.random.integers(len(self.shape) + 1))
        self.batch += axis <= self.batch
        self.op("Unsqueeze", [*self.shape[:axis], 1, *self.shape[axis:]], [axis])

    def model(self):
        return model_of(self.nodes, self.constants, self.name, SHAPE)


def model_of(nodes, constants, result, shape):
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_empty_tensor_value_info(result)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def axes_of(proto, name):
    graph = infer_shapes(ir.from_proto(proto)).graph
    found = along_input(list(graph), graph.inputs[0])
    return next(axes for value, axes in found.items() if value.name == name)


def coordinates(axis, size):
    """What an axis says of where each of its entries lies: by the input's axis, a step for each entry; None outside."""
    lengths = [length for _, length in axis.grid]
    for place, (along, length) in enumerate(axis.grid):
        inner = np.unravel_index(np.arange(int(np.prod(lengths))), lengths)[place]
        steps = [None] * axis.before + [int(i) for i in inner] + [None] * axis.after
        assert len(steps) == size
        yield along, steps, SHAPE[along - 1] // length


@pytest.mark.parametrize("part", range(3))
def test_entries_lie_where_their_axes_say(part):
    """Each window holds coordinates along one axis of the input: those that come out must be those that are said."""
    said = 0
    for seed in range(part * CHAINS // 3, (part + 1) * CHAINS // 3):
        chain = Chain(seed)
        for _ in range(6):
            chain.draw()
        if not chain.nodes:
            continue
        proto = chain.model()
        evaluator = ReferenceEvaluator(proto)
        axes = axes_of(proto, chain.name)
        for place, axis in enumerate(axes):
            for along, steps, width in coordinates(axis, chain.shape[place]):
                said += 1
                x = np.broadcast_to(np.indices(SHAPE)[along - 1], (2, *SHAPE)).astype(np.float32)
                (got,) = evaluator.run(None, {"x": x})
                for entry, step in zip(np.moveaxis(got, place, 0), steps, strict=True):
                    inside = entry[entry != EXTRA]
                    if step is None:
                        assert inside.size == 0, (seed, axis)
                    else:
                        assert set(np.unique(inside // width)) <= {step}, (seed, axis)
    assert said > 50  # most chains leave something to say


def plain(along, size):
    return Axis((Part(along, size),))


BATCH = plain(0, None)
CASES = {
    "a convolution keeps its grid and mixes its channels": (
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 1], pads=[1, 1, 1, 1])],
        {"w": (5, 4, 3, 3)},
        (BATCH, plain(None, 5), plain(2, 3), plain(3, 8)),
    ),
    "a pool keeps channels too": (
        [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])],
        {},
        (BATCH, plain(1, 4), plain(2, 3), plain(3, 4)),
    ),
    "a global pool leaves no grid": (
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        {},
        (BATCH, plain(1, 4), plain(None, 1), plain(None, 1)),
    ),
    "a product keeps rows and takes columns": (
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": (8, 7)},
        (BATCH, plain(1, 4), plain(2, 6), plain(None, 7)),
    ),
    "a product of two has rows of one and columns of the other": (
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["t", "x"], ["y"]),
        ],
        {},
        (BATCH, plain(1, 4), plain(3, 8), plain(3, 8)),
    ),
    "einsum goes by its letters": (
        [helper.make_node("Einsum", ["x", "w"], ["y"], equation="bchw,hk->bwck")],
        {"w": (6, 5)},
        (BATCH, plain(3, 8), plain(1, 4), plain(None, 5)),
    ),
    "an axis that is summed away is gone": (
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        {"axes": np.array([2])},
        (BATCH, plain(1, 4), plain(3, 8)),
    ),
    "half of a grid is not the whole of the input": (
        [helper.make_node("Slice", ["x", "start", "stop", "axis"], ["y"])],
        {"start": np.array([0]), "stop": np.array([4]), "axis": np.array([3])},
        (BATCH, plain(1, 4), plain(2, 6), plain(None, 4)),
    ),
    "padding that is cut away again leaves the grid": (
        [
            helper.make_node("Pad", ["x", "pads"], ["p"]),
            helper.make_node("Slice", ["p", "start", "stop", "axis"], ["y"]),
        ],
        {
            "pads": np.array([0] * 3 + [2] + [0] * 4),
            "start": np.array([0]),
            "stop": np.array([8]),
            "axis": np.array([3]),
        },
        (BATCH, plain(1, 4), plain(2, 6), plain(3, 8)),
    ),
    "of an axis that is split, steps run along the input, and what is within a step does not": (
        [helper.make_node("Reshape", ["x", "split"], ["y"])],
        {"split": np.array([0, 4, 3, 2, 8])},
        (BATCH, plain(1, 4), plain(2, 3), plain(None, 2), plain(3, 8)),
    ),
    "two grids in a row are none": (
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=3)],
        {},
        (BATCH, plain(1, 4), plain(2, 6), plain(None, 16)),
    ),
    "an unknown order of entries is no axis": (
        [helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2)],
        {},
        (plain(None, None), plain(None, 1), plain(None, 12), plain(None, 16)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_does_to_axes(name):
    nodes, constants, expected = CASES[name]
    order = sorted(nodes, key=lambda node: node.output[0] == "y")
    given = {
        key: np.zeros(value, np.float32) if isinstance(value, tuple) else value for key, value in constants.items()
    }
    proto = model_of(order, given, "y", SHAPE)
    assert axes_of(proto, "y") == expected


def test_an_axis_of_one_channel_is_no_factor_of_a_row_of_patches():
    proto = model_of([helper.make_node("Flatten", ["x"], ["y"])], {}, "y", (1, 6, 8))
    assert axes_of(proto, "y") == (BATCH, Axis((Part(2, 6), Part(3, 8))))


def test_operands_that_disagree_leave_nothing_to_say():
    """A square window plus itself, turned: sizes agree, and what the axes lie along does not."""
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), helper.make_node("Add", ["x", "t"], ["y"])]
    assert axes_of(model_of(nodes, {}, "y", (5, 5)), "y") == (BATCH, plain(None, 5), plain(None, 5))
    twice = [helper.make_node("Add", ["x", "x"], ["y"])]
    assert axes_of(model_of(twice, {}, "y", (5, 5)), "y") == (BATCH, plain(1, 5), plain(2, 5))


def test_recurrent_steps_keep_their_frames():
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["t", "w", "r"], ["y", "last"], hidden_size=3),
    ]
    constants = {"w": np.zeros((1, 9, 6), np.float32), "r": np.zeros((1, 9, 3), np.float32)}
    proto = model_of(nodes, constants, "y", SHAPE[:2])
    assert axes_of(proto, "y") == (plain(1, 4), plain(None, 1), BATCH, plain(None, 3))
    assert axes_of(proto, "last") == (plain(None, 1), BATCH, plain(None, 3))


def test_entries_around_a_grid_are_counted_once_their_number_is_known():
    """A class token that is expanded to a shape of run time: the sum with positions tells how long the axis is."""
    nodes = [
        helper.make_node("Reshape", ["x", "merged"], ["tokens"]),
        helper.make_node("Shape", ["x"], ["all"]),
        helper.make_node("Slice", ["all", "zero", "one"], ["batch"]),
        helper.make_node("Cast", ["batch"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["float"], ["again"], to=TensorProto.INT64),
        helper.make_node("Concat", ["again", "again", "width"], ["wanted"], axis=0),
        helper.make_node("Expand", ["token", "wanted"], ["class"]),
        helper.make_node("Concat", ["class", "tokens"], ["joined"], axis=1),
        helper.make_node("Add", ["joined", "positions"], ["y"]),
    ]
    constants = {
        "merged": np.array([0, 24, 8]), "zero": np.array([0]), "one": np.array([1]), "width": np.array([8]),
        "token": np.zeros((1, 1, 8), np.float32), "positions": np.zeros((26, 8), np.float32),
    }  # fmt: skip
    proto = model_of(nodes, constants, "y", SHAPE)
    merged = (Part(1, 4), Part(2, 6))
    assert axes_of(proto, "joined")[1] == Axis(merged, None, 0)
    assert axes_of(proto, "joined")[1].grid == ()
    assert axes_of(proto, "y")[1] == Axis(merged, 2, 0)
    assert axes_of(proto, "y")[1].grid == ((1, 4), (2, 6))
