"""Networks as torch's two exporters write them, against autograd. Skipped where no interpreter has torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tonescope_server import Explainer, Target

NETWORKS = (
    "mlp", "lenet", "resnet", "rnn", "gru", "lstm", "bilstm", "conv_gru", "vit", "transformer", "depthwise", "tcn",
    "unet",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
NEEDED = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ('torch', 'onnx', 'onnxscript'))))"


def interpreter():
    """Return an interpreter that has torch and what its exporters need, or None."""
    named = os.environ.get("TONESCOPE_BENCH_TORCH_PYTHON")
    found = [Path(named)] if named else [ROOT / ".venv-bench" / "bin" / "python", Path(sys.executable)]
    has = (p for p in found if p.exists() and subprocess.run([p, "-c", NEEDED], check=False).returncode == 0)
    return next(has, None)


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    python = interpreter()
    if python is None:
        pytest.skip("needs torch, onnx and onnxscript: no interpreter has them (make bench-peers makes one)")
    folder = tmp_path_factory.mktemp("exports")
    command = [python, Path(__file__).with_name("torch_exports.py"), folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_network_has_the_gradient_that_autograd_finds(exports, name, exporter):
    path = exports / f"{name}.{exporter}.onnx"
    if path.with_suffix(".txt").exists():
        pytest.skip(f"torch cannot export {name}: {path.with_suffix('.txt').read_text()}")
    with np.load(exports / f"{name}.npz") as given:
        x, want = given["x"], given["g"]
    found = Explainer.load(path).gradient(x, Target.element(1))
    np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("vit", "attention_relevance"), ("transformer", "attention_rollout"), ("resnet", "grad_cam"),
        ("conv_gru", "hires_cam"), ("tcn", "grad_cam_plus_plus"), ("unet", "layer_cam"),
        ("depthwise", "guided_grad_cam"),
    ],
)  # fmt: skip
def test_both_exporters_spell_the_same_attention_and_the_same_layers(exports, name, method):
    """Names, shapes and reshapes differ; what is found in the graph, and where it lies in the input, does not."""
    with np.load(exports / f"{name}.npz") as given:
        x = given["x"]
    paths = [exports / f"{name}.{exporter}.onnx" for exporter in ("dynamo", "torchscript")]
    if not all(path.exists() for path in paths):
        pytest.skip(f"torch cannot export {name} by both of its exporters")
    signed = {"relu": False} if "cam" in method else {}
    one, other = (Explainer.load(path).explain(x, method, Target.element(1), **signed).cells for path in paths)
    assert np.abs(one).max() > 0
    np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max(), rtol=0)
