"""Models with If and Scan in them, and the check of their gradients by central differences on ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from tonescope_server.gradients import STANDARD, differentiate
from tonescope_server.gradients.prepass import infer_shapes
from tonescope_server.gradients.seed import Term
from tonescope_server.gradients.tape import Tape

DOUBLE, FLOAT, INT64 = TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.INT64
STEP = 1e-5
TOLERANCE = 1e-7  # of functions of order one: 1e-10 from the cubic term, 1e-11 from rounding, and then some


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape) * 0.6


SIZE = 7
POINTS = [random(SIZE, seed=3) + 1, random(SIZE, seed=3) - 1]


def value(name, shape=None, kind=DOUBLE):
    return helper.make_tensor_value_info(name, kind, shape)


def node(op_type, inputs, outputs, **attributes):
    outputs = outputs.split()
    return helper.make_node(op_type, inputs.split(), outputs, name=f"node_{outputs[0]}", **attributes)


def model(nodes, inputs, constants, outputs=("y",), opset=18):
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "case", inputs, [value(o) for o in outputs], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def session(proto):
    options = ort.SessionOptions()
    options.log_severity_level = 3  # drawn models have weights that nothing reads
    return ort.InferenceSession(proto.SerializeToString(), options)


def check(proto, x, **options):
    """Compare the whole gradient at one point, by a random cotangent."""
    both = ir.to_proto(differentiate(ir.from_proto(proto), ["x"], **options))
    onnx.checker.check_model(both)
    plain = session(proto)
    (y,) = plain.run(["y"], {"x": x})
    cotangent = random(*y.shape, seed=99)
    ours = session(both)
    got_y, got = ours.run(["y", "gradient:x"], {"x": x, "cotangent:y": cotangent})
    np.testing.assert_array_equal(got_y, y)
    want = np.zeros(x.size)
    for i, step in enumerate(np.eye(x.size).reshape(x.size, *x.shape) * STEP):
        up, down = (plain.run(["y"], {"x": x + s})[0] for s in (step, -step))
        want[i] = ((up - down) * cotangent).sum() / (2 * STEP)
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(got.ravel(), want, atol=TOLERANCE * max(1.0, np.abs(want).max()), rtol=0)
    return both


def kinds(proto, name="If"):
    return [n for n in ir.from_proto(proto).graph.all_nodes() if n.op_type == name]


def branch(name, nodes, results, kind=DOUBLE):
    return helper.make_graph(nodes, name, [], [value(r, kind=kind) for r in results])


def cond(name, then, other, outputs="y", condition="c", results=("t", "e")):
    """An If of one result in each branch."""
    return node("If", condition, outputs, then_branch=branch(f"{name}_then", then, [results[0]]),
                else_branch=branch(f"{name}_else", other, [results[1]]))  # fmt: skip


def positive(of, name="c"):
    """Nodes that tell whether the sum of a value is positive."""
    return [node("ReduceSum", of, f"{name}_total", keepdims=0), node("Greater", f"{name}_total nought", name)]


def scanned(nodes, states, elements, results, initial, sequences, outputs, **attributes):
    body = helper.make_graph(nodes, "body", [value(n) for n in (*states, *elements)], [value(r) for r in results])
    return node(
        "Scan", " ".join((*initial, *sequences)), outputs, body=body, num_scan_inputs=len(elements), **attributes
    )


SEQUENCE = [node("MatMul", "x ws", "flat"), node("Reshape", "flat shape", "seq"), node("MatMul", "x wh", "h0")]
OF_SEQUENCE = {"ws": random(SIZE, 8, seed=11), "wh": random(SIZE, 2, seed=12), "shape": np.array([4, 2]),
               "r": random(2, 2, seed=13), "nought": np.float64(0)}  # fmt: skip


def unrolled_and_scanned():
    """One recursion, as a Scan and written out step by step, with a ReLU and a layer in it."""
    step = [
        node("MatMul", "h r", "hr"),
        node("Add", "hr s", "sum"),
        node("Relu", "sum", "next"),
        node("Mul", "next c", "o"),
    ]
    scan = scanned(step, ["h"], ["s"], ["next", "o"], ["h0"], ["seq"], "last out")
    before, after = [*SEQUENCE, node("MatMul", "x wh", "c0"), node("Relu", "c0", "c")], node("MatMul", "out r2", "y")
    nodes, state, rows = [*before, node("Split", "seq", "s0 s1 s2 s3", axis=0, num_outputs=4)], "h0", []
    for t in range(4):
        nodes += [node("MatMul", f"{state} r", f"hr{t}"), node("Reshape", f"s{t} flat2", f"e{t}"),
                  node("Add", f"hr{t} e{t}", f"sum{t}"), node("Relu", f"sum{t}", f"h{t + 1}"),
                  node("Mul", f"h{t + 1} c", f"o{t}"), node("Reshape", f"o{t} row", f"row{t}")]  # fmt: skip
        state, rows = f"h{t + 1}", [*rows, f"row{t}"]
    nodes += [node("Concat", " ".join(rows), "out", axis=0), after]
    constants = OF_SEQUENCE | {"r2": random(2, 3, seed=21), "flat2": np.array([2]), "row": np.array([1, 2])}
    return [model(n, [value("x", [SIZE])], constants) for n in (nodes, [*before, scan, after])]


def windowed(nodes, constants):
    """A model of windows of (3, 4), two classes, in float32."""
    nodes = [*nodes, node("MatMul", "last wy", "y")]
    constants = {
        k: np.asarray(v, np.float32 if np.asarray(v).dtype.kind == "f" else None) for k, v in constants.items()
    }
    proto = model(nodes, [value("x", ["batch", 3, 4], FLOAT)], constants | {"wy": random(4, 2).astype(np.float32)})
    for info in (v for n in proto.graph.node for a in n.attribute for v in (*a.g.input, *a.g.output)):
        info.type.tensor_type.elem_type = FLOAT
    proto.graph.output[0].CopyFrom(value("y", ["batch", 2], FLOAT))
    return proto


def tape_of(proto, rules=STANDARD):
    return Tape(infer_shapes(ir.from_proto(proto)), "x", (Term("y"),), lambda _: rules, np.zeros(12, np.int64), 1)


def run(tape, x, **feeds):
    ours = session(ir.to_proto(tape.finish()))
    weights = np.tile(np.array([1, -1], np.float32), (len(x), 1))
    names = [o.name for o in ours.get_outputs()]
    return dict(zip(names, ours.run(None, {"x": x, "weights:0": weights, **feeds}), strict=True))
