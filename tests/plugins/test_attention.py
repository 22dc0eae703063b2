"""Attention, rollout and relevance: against dense replicas, however a graph spells attention and lays tokens out."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy.special import softmax

from tonescope_server import Explainer
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.errors import MethodNotApplicableError, ParameterError, UnsupportedOperatorError
from tonescope_server.testing import tiny_models, tiny_windows

SOURCE = Path(__file__).resolve().parents[1] / "families.py"
SPEC = importlib.util.spec_from_file_location("tonescope_test_families", SOURCE)
families = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(families)

STEPS, INPUTS, HEADS, EACH = 6, 5, 2, 4
WIDTH = HEADS * EACH
METHODS = ("attention", "attention_rollout", "attention_relevance")
# Softmax and some ten products in float32.
ROUNDING = 1e-5
CAUSAL = np.triu(np.full((STEPS, STEPS), -1e4, np.float32), k=1)


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())
    assert np.abs(expected).max() > 0


# -- one network, spelled in several ways -----------------------------------------------------------------------------


def plain(net, q, k, v):
    scores = net.op("MatMul", net.heads(q, STEPS, HEADS, EACH), net.heads(k, STEPS, HEADS, EACH, turned=True))
    return joined(net, net.op("MatMul", net.op("Softmax", scores, axis=-1), net.heads(v, STEPS, HEADS, EACH)))


def joined(net, mixed):
    return net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), np.array([-1, STEPS, WIDTH]))


def through_casts_and_dropout(net, q, k, v):
    scores = net.op("MatMul", net.heads(q, STEPS, HEADS, EACH), net.heads(k, STEPS, HEADS, EACH, turned=True))
    wide = net.op("Softmax", net.op("Cast", scores, to=onnx.TensorProto.DOUBLE), axis=3)
    weights = net.op("Dropout", net.op("Cast", wide, to=onnx.TensorProto.FLOAT))
    return joined(net, net.op("MatMul", weights, net.heads(v, STEPS, HEADS, EACH)))


def masked_by_a_sum(net, q, k, v):
    scores = net.op("MatMul", net.heads(q, STEPS, HEADS, EACH), net.heads(k, STEPS, HEADS, EACH, turned=True))
    weights = net.op("Softmax", net.op("Add", scores, CAUSAL), axis=-1)
    return joined(net, net.op("MatMul", weights, net.heads(v, STEPS, HEADS, EACH)))


def masked_by_a_choice(net, q, k, v):
    scores = net.op("MatMul", net.heads(q, STEPS, HEADS, EACH), net.heads(k, STEPS, HEADS, EACH, turned=True))
    weights = net.op("Softmax", net.op("Where", CAUSAL < 0, np.float32(-1e9), scores), axis=-1)
    kept = net.op("Where", CAUSAL < 0, np.float32(0), weights)
    return joined(net, net.op("MatMul", kept, net.heads(v, STEPS, HEADS, EACH)))


def by_einsum(net, q, k, v):
    split = [net.op("Reshape", part, np.array([-1, STEPS, HEADS, EACH])) for part in (q, k, v)]
    weights = net.op("Softmax", net.op("Einsum", split[0], split[1], equation="bqhd,bkhd->bhqk"), axis=-1)
    mixed = net.op("Einsum", weights, split[2], equation="bhqk,bkhd->bqhd")
    return net.op("Reshape", mixed, np.array([-1, STEPS, WIDTH]))


def heads_in_the_batch(net, q, k, v):
    parts = [net.op("Reshape", net.heads(part, STEPS, HEADS, EACH), np.array([-1, STEPS, EACH])) for part in (q, k, v)]
    scores = net.op("MatMul", parts[0], net.op("Transpose", parts[1], perm=[0, 2, 1]))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), parts[2])
    return joined(net, net.op("Reshape", mixed, np.array([-1, HEADS, STEPS, EACH])))


def steps_first(net, q, k, v):
    """As torch's module of attention does it: the batch and the heads merged behind the steps, then put in front."""
    turned = [net.op("Transpose", part, perm=[1, 0, 2]) for part in (q, k, v)]
    merged = [net.op("Reshape", part, np.array([STEPS, -1, EACH])) for part in turned]
    rows, columns, values = (
        net.op("Transpose", part, perm=perm)
        for part, perm in zip(merged, ([1, 0, 2], [1, 2, 0], [1, 0, 2]), strict=True)
    )
    mixed = net.op("MatMul", net.op("Softmax", net.op("MatMul", rows, columns), axis=-1), values)
    back = net.op("Reshape", net.op("Transpose", mixed, perm=[1, 0, 2]), np.array([STEPS, -1, WIDTH]))
    return net.op("Transpose", back, perm=[1, 0, 2])


def by_the_operator(net, q, k, v):
    return net.op("Attention", q, k, v, q_num_heads=HEADS, kv_num_heads=HEADS, scale=1.0)


def by_the_operator_with_a_mask(net, q, k, v):
    return net.op("Attention", q, k, v, CAUSAL == 0, q_num_heads=HEADS, kv_num_heads=HEADS, scale=1.0)


SPELLINGS = {
    spelling.__name__: (spelling, causal)
    for spelling, causal in (
        (plain, False), (through_casts_and_dropout, False), (masked_by_a_sum, True), (masked_by_a_choice, True),
        (by_einsum, False), (heads_in_the_batch, False), (steps_first, False), (by_the_operator, False),
        (by_the_operator_with_a_mask, True),
    )
}  # fmt: skip


def network(spelling, *, layers=2, opset=families.OPSET):
    """Layers of attention over the frames with a residual sum, their mean classified; and its weights."""
    net = families.Net(STEPS, INPUTS, seed=3)
    x = net.linear("x", "embed", INPUTS, WIDTH)
    for number in range(layers):
        q, k, v = (net.linear(x, f"l{number}.{part}", WIDTH, WIDTH) for part in "qkv")
        x = net.op("Add", x, spelling(net, q, k, v))
    pooled = net.op("ReduceMean", net.op("Tanh", x), np.array([1]), keepdims=0)
    y = net.linear(pooled, "head", WIDTH, families.CLASSES)
    return net.model(y, opset), net.tensors


def saved(proto, path):
    onnx.save(proto, path / "m.onnx")
    return Explainer.load(path / "m.onnx")


def spelled(name, path):
    proto, tensors = network(SPELLINGS[name][0], opset=23 if "operator" in name else families.OPSET)
    return saved(proto, path), tensors


def windows(explainer, count=3):
    shape = explainer.model.input.shape[1:]
    return np.random.default_rng(5).standard_normal((count, *shape)).astype(np.float32)


def dense_weights(tensors, x, *, causal, layers=2):
    """The attention of every layer, head by head and row by row: (layers, batch, heads, queries, keys)."""

    def linear(h, name):
        return h @ tensors[f"{name}.weight"].astype(np.float64) + tensors[f"{name}.bias"]

    found = []
    h = linear(x.astype(np.float64), "embed")
    for number in range(layers):
        q, k, v = (linear(h, f"l{number}.{part}") for part in "qkv")
        weights = np.zeros((len(x), HEADS, STEPS, STEPS))
        mixed = np.zeros_like(h)
        for window, head, row in np.ndindex(len(x), HEADS, STEPS):
            part = slice(head * EACH, (head + 1) * EACH)
            scores = np.array([q[window, row, part] @ k[window, column, part] for column in range(STEPS)])
            weights[window, head, row] = softmax(scores + (CAUSAL[row] if causal else 0))
            mixed[window, row, part] = weights[window, head, row] @ v[window, :, part]
        h = h + mixed
        found.append(weights)
    return np.stack(found)


def rolled_out(weights):
    """Abnar & Zuidema, one window and one layer at a time: (layers, batch, heads, n, n) → (batch, n, n)."""
    found = []
    for window in range(weights.shape[1]):
        total = np.eye(weights.shape[-1])
        for layer in weights:
            mixed = 0.5 * layer[window].mean(axis=0) + 0.5 * np.eye(weights.shape[-1])
            total = (mixed / mixed.sum(axis=1, keepdims=True)) @ total
        found.append(total)
    return np.stack(found)


def relevant(weights, gradients):
    """Chefer et al., equations 5 and 6: (layers, batch, heads, n, n) twice → (batch, n, n)."""
    found = []
    for window in range(weights.shape[1]):
        total = np.eye(weights.shape[-1])
        for layer, slopes in zip(weights, gradients, strict=True):
            total = total + np.maximum(layer[window] * slopes[window], 0).mean(axis=0) @ total
        found.append(total)
    return np.stack(found)


@pytest.mark.parametrize("name", SPELLINGS)
def test_attention_is_found_however_it_is_spelled(name, tmp_path):
    explainer, tensors = spelled(name, tmp_path)
    x = windows(explainer)
    result = explainer.explain(x, "attention")
    weights = dense_weights(tensors, x, causal=SPELLINGS[name][1])
    maps = [array for key, array in result.maps.items() if key.startswith("attention:")]
    assert len(maps) == 2
    for got, expected in zip(maps, weights, strict=True):
        close(got, expected)
    close(result.maps["tokens"], weights[-1].mean(axis=(1, 2)))
    close(result.cells, np.repeat(weights[-1].mean(axis=(1, 2))[:, :, None], INPUTS, axis=2))


@pytest.mark.parametrize("name", SPELLINGS)
def test_rollout_is_the_papers_however_attention_is_spelled(name, tmp_path):
    explainer, tensors = spelled(name, tmp_path)
    x = windows(explainer)
    expected = rolled_out(dense_weights(tensors, x, causal=SPELLINGS[name][1]))
    result = explainer.explain(x, "attention_rollout")
    close(result.maps["rollout"], expected)
    close(result.maps["rollout"].sum(axis=2), np.ones((3, STEPS)))
    close(result.maps["tokens"], expected.mean(axis=1))


def test_relevance_is_the_papers_and_depends_on_the_class(tmp_path):
    explainer, tensors = spelled("plain", tmp_path)
    x = windows(explainer)
    weights = dense_weights(tensors, x, causal=False)
    layers = explainer.explain(x, "attention").parameters["layers"]
    for target in (1, 3):
        slopes = explainer.gradient(x, target, at=layers)
        expected = relevant(weights, np.stack([slopes[name] for name in layers]).astype(np.float64))
        close(explainer.explain(x, "attention_relevance", target).maps["relevance"], expected)
    assert np.abs(expected - np.eye(STEPS)).max() > 1e-3


@pytest.mark.parametrize("name", [name for name, (_, causal) in SPELLINGS.items() if not causal])
def test_relevance_is_the_same_however_attention_is_spelled(name, tmp_path):
    explainer, _ = spelled("plain", tmp_path)
    other, _ = spelled(name, tmp_path)
    x = windows(explainer)
    close(*(each.explain(x, "attention_relevance", 2).maps["relevance"] for each in (other, explainer)))


def test_one_head_may_be_asked_for(tmp_path):
    explainer, tensors = spelled("plain", tmp_path)
    x = windows(explainer)
    weights = dense_weights(tensors, x, causal=False)[-1]
    for head in range(HEADS):
        close(explainer.explain(x, "attention", head=head).maps["tokens"], weights[:, head].mean(axis=1))
    with pytest.raises(ParameterError, match="parameter 'head': expected one of 2, from 0 on, got 2"):
        explainer.explain(x, "attention", head=2)


# -- which layers -----------------------------------------------------------------------------------------------------


def test_layers_may_be_named_by_value_by_node_and_by_what_is_made_of_them(tmp_path):
    explainer, tensors = spelled("plain", tmp_path)
    x = windows(explainer)
    found = [layer for layer in explainer.layers() if layer.op_type == "Softmax"]
    product = next(
        layer for layer in explainer.layers()[explainer.layers().index(found[0]) :] if layer.op_type == "MatMul"
    )
    expected = rolled_out(dense_weights(tensors, x, causal=False)[:1])
    for name in (found[0].name, found[0].node, product.name):
        close(explainer.explain(x, "attention_rollout", layers=[name]).maps["rollout"], expected)


def test_the_operators_result_stands_for_its_weights(tmp_path):
    explainer, tensors = spelled("by_the_operator", tmp_path)
    x = windows(explainer)
    result = next(layer.name for layer in explainer.layers() if layer.op_type == "Attention")
    expected = rolled_out(dense_weights(tensors, x, causal=False)[:1])
    close(explainer.explain(x, "attention_rollout", layers=[result]).maps["rollout"], expected)


def test_a_module_stands_for_the_attention_inside_it(tmp_path):
    proto, tensors = network(plain)
    for number, node in enumerate(node for node in proto.graph.node if node.op_type == "Softmax"):
        scopes = ["", f"layers.{number}", f"layers.{number}.attention", "softmax"]
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(scopes))
    explainer = saved(proto, tmp_path)
    x = windows(explainer)
    weights = dense_weights(tensors, x, causal=False)
    for module, expected in (("layers.0", weights[:1]), ("layers.1.attention", weights[1:])):
        close(explainer.explain(x, "attention_rollout", layers=[module]).maps["rollout"], rolled_out(expected))


def test_weights_that_are_not_found_may_be_named(tmp_path):
    """Pooling by attention without a product of queries: a softmax over the frames that is multiplied and summed."""
    net = families.Net(STEPS, INPUTS)
    hidden = net.op("Tanh", net.linear("x", "embed", INPUTS, 4))
    scores = net.op("Transpose", net.linear(hidden, "score", 4, 1), perm=[0, 2, 1])
    weights = net.op("Softmax", scores, axis=-1)
    pooled = net.op("ReduceSum", net.op("Mul", net.op("Transpose", weights, perm=[0, 2, 1]), hidden), np.array([1]),
                    keepdims=0)  # fmt: skip
    explainer = saved(net.model(net.linear(pooled, "head", 4, families.CLASSES)), tmp_path)
    x = windows(explainer)
    with pytest.raises(MethodNotApplicableError, match="name its weights with the parameter 'layers'"):
        explainer.explain(x, "attention")
    result = explainer.explain(x, "attention", layers=[weights])
    close(result.maps[f"attention:{weights}"], explainer.activation(x, weights)[:, None])
    close(result.cells, np.repeat(explainer.activation(x, weights)[:, 0, :, None], INPUTS, axis=2))


def test_a_classifiers_softmax_is_not_attention():
    for name in ("conv_1d", "mlp"):
        explainer = Explainer(tiny_models()[name], installed_plugins())
        for method in METHODS:
            assert "no attention was found" in explainer.applicability()[method]


def test_layers_that_look_at_another_number_of_tokens_are_not_multiplied(tmp_path):
    net = families.Net(STEPS, INPUTS)
    hidden = net.linear("x", "embed", INPUTS, 4)
    queries = net.weight("queries", 1, 3, 4, fan_in=4)
    weights = net.op("Softmax", net.op("MatMul", queries, net.op("Transpose", hidden, perm=[0, 2, 1])), axis=-1)
    y = net.linear(net.op("ReduceMean", net.op("MatMul", weights, hidden), np.array([1]), keepdims=0), "head", 4, 5)
    explainer = saved(net.model(y), tmp_path)
    x = windows(explainer)
    with pytest.raises(MethodNotApplicableError, match=r"expected every layer to look at the same tokens"):
        explainer.explain(x, "attention_rollout")
    close(explainer.explain(x, "attention").maps["tokens"], explainer.activation(x, weights).mean(axis=1))


def test_attention_within_windows_of_the_input_is_refused(tmp_path):
    """Its rows are of one window each, and a product over layers would mix them up."""
    net = families.Net(STEPS, INPUTS)
    hidden = net.op("Reshape", net.linear("x", "embed", INPUTS, 4), np.array([-1, 3, 4]))
    weights = net.op("Softmax", net.op("MatMul", hidden, net.op("Transpose", hidden, perm=[0, 2, 1])), axis=-1)
    mixed = net.op("Reshape", net.op("MatMul", weights, hidden), np.array([-1, STEPS * 4]))
    explainer = saved(net.model(net.linear(mixed, "head", STEPS * 4, families.CLASSES)), tmp_path)
    for method in METHODS:
        with pytest.raises(MethodNotApplicableError, match="expected attention weights as"):
            explainer.explain(windows(explainer), method)


def test_rollout_needs_no_gradient_and_relevance_does(tmp_path):
    proto, tensors = network(plain)
    last = proto.graph.node[-1]
    last.op_type = "Hardmax"  # has no derivative, and no rule
    explainer = saved(proto, tmp_path)
    x = windows(explainer)
    close(
        explainer.explain(x, "attention_rollout").maps["rollout"], rolled_out(dense_weights(tensors, x, causal=False))
    )
    with pytest.raises(UnsupportedOperatorError, match=r"Hardmax.*these methods still work:.*attention_rollout"):
        explainer.explain(x, "attention_relevance")


# -- from tokens to the input -----------------------------------------------------------------------------------------


def stretched(cam, axis, size):
    """Linear interpolation between the centres of places, which stays level beyond the outermost two."""
    old = cam.shape[axis]
    centres = (np.arange(size) + 0.5) * old / size - 0.5
    return np.apply_along_axis(lambda row: np.interp(centres, np.arange(old), row), axis, cam)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_tokens_row_is_interpolated_over_the_image(method, tmp_path):
    explainer = saved(families.vit(layers=2), tmp_path)
    x = windows(explainer)
    result = explainer.explain(x, method, 1)
    matrix = {
        "attention": lambda m: [v for k, v in m.items() if k.startswith("attention:")][-1].mean(axis=1),
        "attention_rollout": lambda m: m["rollout"],
        "attention_relevance": lambda m: m["relevance"],
    }[method](result.maps)
    close(result.maps["tokens"], matrix[:, 0])
    close(result.cells[:, 0], stretched(stretched(matrix[:, 0, 1:].reshape(-1, 3, 3), 1, 12), 2, 12))
    rows = explainer.explain(x, method, 1, class_token=False)
    close(rows.maps["tokens"], matrix.mean(axis=1))


def attended(net, tokens, steps, width):
    """One head over tokens, and the mean of what it makes."""
    scores = net.op("MatMul", net.linear(tokens, "q", width, width), net.op("Transpose", tokens, perm=[0, 2, 1]))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), tokens)
    pooled = net.op("ReduceMean", mixed, np.array([1]), keepdims=0)
    return net.model(net.linear(pooled, "head", width, families.CLASSES))


def test_patches_that_are_cut_by_reshapes_are_followed(tmp_path):
    """Patches of 2 x 5 of an image of 6 x 10: a grid of 3 x 2, without a class token."""
    net = families.Net(1, 6, 10)
    cut = net.op("Transpose", net.op("Reshape", "x", np.array([-1, 3, 2, 2, 5])), perm=[0, 1, 3, 2, 4])
    tokens = net.linear(net.op("Reshape", cut, np.array([-1, 6, 10])), "embed", 10, 4)
    explainer = saved(attended(net, tokens, 6, 4), tmp_path)
    result = explainer.explain(windows(explainer), "attention")
    close(result.cells[:, 0], stretched(stretched(result.maps["tokens"].reshape(-1, 3, 2), 1, 6), 2, 10))


def test_a_token_for_each_row_is_held_along_that_row(tmp_path):
    """As many rows as columns, so that sizes do not tell which of the two the tokens are."""
    for turned in (False, True):
        net = families.Net(7, 7)
        rows = net.op("Transpose", "x", perm=[0, 2, 1]) if turned else "x"
        explainer = saved(attended(net, net.linear(rows, "embed", 7, 4), 7, 4), tmp_path)
        result = explainer.explain(windows(explainer), "attention")
        tokens = result.maps["tokens"]
        close(result.cells, np.broadcast_to(tokens[:, None] if turned else tokens[:, :, None], result.cells.shape))


def mixed_first(path, tokens=6, *, shape=(8, 6)):
    """Tokens that a dense layer makes of the whole window: nothing in the graph says what they stand for."""
    net = families.Net(*shape)
    cells = int(np.prod(shape))
    dense = net.linear(net.op("Reshape", "x", np.array([-1, cells])), "mix", cells, tokens * 4)
    onnx.save(attended(net, net.op("Reshape", dense, np.array([-1, tokens, 4])), tokens, 4), path / "model.onnx")
    (path / "model.toml").write_text('[input]\ncell_order = "tone_frame"\n[window]\nframes = 6\n')
    return Explainer.load(path)


@pytest.mark.parametrize("method", METHODS)
def test_tokens_that_the_graph_does_not_tell_of_must_be_stated(method, tmp_path):
    explainer = mixed_first(tmp_path)
    with pytest.raises(
        MethodNotApplicableError, match=r"state it with the parameters 'tokens'.*'class_token' and 'patch'"
    ):
        explainer.explain(windows(explainer), method)
    result = explainer.explain(windows(explainer), method, tokens="frame")
    close(result.cells, np.repeat(result.maps["tokens"][:, None], 8, axis=1))
    assert [w.code for w in result.warnings] == ["NO_TONE_RESOLUTION"]


def test_stated_tokens_are_tones_frames_or_patches_with_or_without_a_class_token(tmp_path):
    def asked(count, **stated):
        explainer = mixed_first(tmp_path, count)
        result = explainer.explain(windows(explainer), "attention", **stated)
        return result.cells, result.maps["tokens"], explainer.activation(windows(explainer), "softmax_8_0")

    cells, tokens, weights = asked(8, tokens="tone")
    close(cells, np.repeat(tokens[:, :, None], 6, axis=2))
    close(tokens, weights.mean(axis=1))
    cells, tokens, weights = asked(9, tokens="tone")  # one more than tones: the first is a class token
    close(cells, np.repeat(weights[:, 0, 1:, None], 6, axis=2))
    cells, tokens, weights = asked(4, tokens="tone", class_token=False)  # each of two tones
    close(cells, np.repeat(stretched(weights.mean(axis=1), 1, 8)[:, :, None], 6, axis=2))
    cells, tokens, weights = asked(4, tokens="frame", class_token=True)
    close(cells, np.repeat(stretched(weights[:, 0, 1:], 1, 6)[:, None], 8, axis=1))
    cells, tokens, weights = asked(12, tokens="patch", patch=[4, 1])
    close(cells, stretched(weights.mean(axis=1).reshape(-1, 2, 6), 1, 8))
    cells, tokens, weights = asked(13, tokens="patch", patch=[2, 2])
    close(cells, stretched(stretched(weights[:, 0, 1:].reshape(-1, 4, 3), 1, 8), 2, 6))


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"tokens": "frame", "class_token": True}, "expected 6 tokens of kind 'frame', with a class token.*, got 8"),
        ({"tokens": "tone", "class_token": False}, "expected 8 tokens of kind 'tone', without a class token.*, got 9"),
        ({"tokens": "patch"}, "parameter 'patch': expected rows and columns of a patch, got none"),
        ({"tokens": "patch", "patch": [4, 3]}, "expected 4 tokens of kind 'patch'"),
    ],
)
def test_what_is_stated_must_fit_the_number_of_tokens(stated, message, tmp_path):
    explainer = mixed_first(tmp_path, 9)
    with pytest.raises(ParameterError, match=message):
        explainer.explain(windows(explainer), "attention", **stated)


def test_tokens_of_frames_say_that_they_tell_no_tones_apart_and_raise_no_alarm():
    model = tiny_models()["attention"]
    explainer, x = Explainer(model, installed_plugins()), tiny_windows(model)
    for method in METHODS:
        result = explainer.explain(x, method)
        assert [w.code for w in result.warnings] == ["NO_TONE_RESOLUTION"]
        assert result.null_tone_share is None
        np.testing.assert_array_equal(result.tones, np.repeat(result.tones[:, :1], 10, axis=1))


def test_of_a_quantised_model_only_what_needs_a_gradient_is_called_an_estimate(tmp_path):
    net = families.Net(STEPS, INPUTS)
    scale, zero = np.float32(0.05), np.int8(0)
    levels = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", scale, zero), scale, zero)
    explainer = saved(attended(net, net.linear(levels, "embed", INPUTS, 4), STEPS, 4), tmp_path)
    x = windows(explainer)
    codes = {name: [w.code for w in explainer.explain(x, name).warnings] for name in METHODS}
    assert ["STRAIGHT_THROUGH" in codes[name] for name in METHODS] == [False, False, True]
