"""Train the demo's people counter: ``python -m tonescope_server.demo.train --out DIR`` (needs the extra ``lab``).

Here belong the network, its training and its files. The demo itself runs the trained model and never imports this.

The network has the shape of the public CSI counting models: three dilated convolutions over time, the mean over time,
one head for the count and one for how far to trust it. A group lasso on the first convolution charges for every tone
that is listened to at all, so that the network keeps to the tones that carry something. Which those are is not told:
it follows from the data, and no weight is set by hand.

The result is a function of the constants below: the same bytes on every run. Sums run on one thread, so that their
order does not depend on the machine's number of cores. Another kind of processor may still round the last bit
otherwise.
"""

from __future__ import annotations

import os

# Before jax is imported. One thread and one instruction set, hence one order of summation; NPROC is the size of XLA's
# thread pool, and without it two cores and one give different last bits. No accelerator, whatever is installed.
os.environ["NPROC"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false --xla_cpu_max_isa=AVX2"
os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from safetensors.numpy import save

from tonescope_server.demo.recording import demo_recording, steady_windows
from tonescope_server.demo.simulator import MAX_PEOPLE, N_TONES, PLANTED_ROWS, Scene, simulate

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Parameters = dict[str, jax.Array]

MODEL_NAME, MODEL_VERSION = "people_count", "1"
CLASS_NAMES = ("empty", "one person", "two people", "three people")
FRAMES, HOP = 20, 10
DILATIONS = (1, 2, 4)
EPS = 1e-6

TRAINING_SEEDS = range(1000, 1240)
HELD_OUT_SEEDS = range(500_000, 500_060)
STEPS, BATCH, PEAK_RATE = 900, 128, 2e-3
INPUT_NOISE = 0.3  # in standard deviations of each tone
TONE_PRICE = 3e-3  # of the group lasso
SMOOTHING = 0.05


@dataclass(frozen=True)
class Windows:
    """Windows, z-scored, shape (n, 20 frames, 64 tones), and how many people are in each."""

    inputs: FloatArray
    people: IntArray


@dataclass(frozen=True)
class Statistics:
    """Mean and population standard deviation per tone, in ADC counts, each of shape (64,)."""

    mean: FloatArray
    std: FloatArray

    def apply(self, amplitudes: FloatArray) -> FloatArray:
        """Return the z-scores."""
        return np.asarray((amplitudes - self.mean) / (self.std + np.float32(EPS)), dtype=np.float32)


def scene(seed: int, seconds: float = 6.0) -> Scene:
    """Return a scene in which every count occurs once, in an order that the seed decides."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(MAX_PEOPLE + 1)
    return Scene(schedule=tuple((seconds, int(people)) for people in order), seed=seed)


def simulated(seeds: Sequence[int]) -> tuple[FloatArray, IntArray]:
    """Simulate one scene per seed and cut it into windows: amplitudes (n, 20, 64) and people (n,)."""
    parts = [steady_windows(simulate(scene(seed)), FRAMES, HOP) for seed in seeds]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def initial_parameters(seed: int = 7) -> Parameters:
    """Draw the weights (He), named as in the public counting models."""
    shapes = {
        "enc.c1": (64, N_TONES, 3),
        "enc.c2": (128, 64, 3),
        "enc.c3": (128, 128, 3),
        "count_head.fc1": (64, 128),
        "count_head.fc2": (len(CLASS_NAMES), 64),
        "conf_head.fc1": (32, 128),
        "conf_head.fc2": (1, 32),
    }
    rng = np.random.Generator(np.random.Philox(key=seed))
    parameters = {}
    for name, shape in shapes.items():
        spread = np.sqrt(2.0 / np.prod(shape[1:]))
        parameters[f"{name}.weight"] = jnp.asarray(rng.normal(0.0, spread, shape), jnp.float32)
        parameters[f"{name}.bias"] = jnp.zeros(shape[0], jnp.float32)
    return parameters


def forward(parameters: Parameters, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the count's logits (n, 4) and the confidence's logit (n,) of windows (n, 20, 64)."""
    hidden = inputs
    for layer, dilation in enumerate(DILATIONS, start=1):
        hidden = jax.nn.relu(_convolution(parameters, f"enc.c{layer}", hidden, dilation))
    features = hidden.mean(axis=1)
    # The confidence judges the count; it must not reshape what the count sees.
    confidence = _head(parameters, "conf_head", jax.lax.stop_gradient(features))
    return _head(parameters, "count_head", features), confidence[:, 0]


def _convolution(parameters: Parameters, name: str, hidden: jax.Array, dilation: int) -> jax.Array:
    """Convolve over time with padding = dilation, as three matrix products."""
    frames = hidden.shape[1]
    padded = jnp.pad(hidden, ((0, 0), (dilation, dilation), (0, 0)))
    weight = parameters[f"{name}.weight"]
    taps = [padded[:, tap * dilation : tap * dilation + frames] @ weight[:, :, tap].T for tap in range(3)]
    return taps[0] + taps[1] + taps[2] + parameters[f"{name}.bias"]


def _head(parameters: Parameters, name: str, features: jax.Array) -> jax.Array:
    hidden = features @ parameters[f"{name}.fc1.weight"].T + parameters[f"{name}.fc1.bias"]
    return jax.nn.relu(hidden) @ parameters[f"{name}.fc2.weight"].T + parameters[f"{name}.fc2.bias"]


def loss(parameters: Parameters, inputs: jax.Array, people: jax.Array) -> jax.Array:
    """Cross-entropy of the count, of the confidence, and the price of the tones listened to."""
    logits, confidence = forward(parameters, inputs)
    labels = optax.smooth_labels(jax.nn.one_hot(people, len(CLASS_NAMES)), SMOOTHING)
    count = optax.softmax_cross_entropy(logits, labels).mean()
    right = (logits.argmax(axis=-1) == people).astype(jnp.float32)
    trust = optax.sigmoid_binary_cross_entropy(confidence, right).mean()
    tones = jnp.sqrt(jnp.square(parameters["enc.c1.weight"]).sum(axis=(0, 2)) + 1e-12).sum()
    return count + 0.1 * trust + TONE_PRICE * tones


def train(windows: Windows, steps: int = STEPS) -> Parameters:
    """Train from scratch and return the parameters."""
    rate = optax.warmup_cosine_decay_schedule(0.0, PEAK_RATE, steps // 10, steps)
    optimiser = optax.adamw(rate, weight_decay=1e-3)

    def update(parameters: Parameters, state: Any, inputs: jax.Array, people: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(loss)(parameters, inputs, people)
        updates, state = optimiser.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    step = jax.jit(update)
    parameters = initial_parameters()
    state = optimiser.init(parameters)
    rng = np.random.Generator(np.random.Philox(key=11))
    carries = windows.inputs.std(axis=(0, 1)) > 0  # null tones stay exactly 0, as they will in use
    for number in range(steps):
        chosen = rng.integers(0, len(windows.people), BATCH)
        inputs = windows.inputs[chosen]
        noise = INPUT_NOISE * rng.standard_normal(inputs.shape, dtype=np.float32) * carries
        parameters, state, value = step(parameters, state, inputs + noise, windows.people[chosen])
        if (number + 1) % 100 == 0:
            print(f"step {number + 1:4d}/{steps}  loss {float(value):.4f}", flush=True)
    return parameters


def accuracy(parameters: Parameters, windows: Windows) -> float:
    """The share of windows whose count is right."""
    logits, _ = jax.jit(forward)(parameters, windows.inputs)
    return float((np.asarray(logits).argmax(axis=-1) == windows.people).mean())


def tone_saliency(parameters: Parameters, inputs: FloatArray) -> FloatArray:
    """Mean over windows of |Σ_t ∂L/∂x_kt| · mean_t |x_kt|, with L = −log p(prediction); shape (64,)."""

    def surprise(batch: jax.Array) -> jax.Array:
        return -jax.nn.log_softmax(forward(parameters, batch)[0]).max(axis=-1).sum()

    gradient = np.asarray(jax.jit(jax.grad(surprise))(inputs))
    return np.asarray((np.abs(gradient.sum(axis=1)) * np.abs(inputs).mean(axis=1)).mean(axis=0))


def planted_in_top(saliency: FloatArray, k: int = 8) -> int:
    """How many of the ``k`` most salient tones are planted."""
    return len({int(row) for row in np.argsort(-saliency)[:k]} & set(PLANTED_ROWS))


def manifest(statistics: Statistics, empty_room: FloatArray, sha256: str, data_sha256: str) -> str:
    """Return the text of ``model.toml``; ``empty_room`` is the mean z-score per tone while nobody is there."""
    names = ", ".join(f'"{name}"' for name in CLASS_NAMES)
    return f"""\
# Written by `python -m tonescope_server.demo.train`; docs/demo.md says how.
[model]
name = "{MODEL_NAME}"
version = "{MODEL_VERSION}"
architecture = "csi_count_net"
weights = "{MODEL_NAME}.safetensors"
sha256 = "{sha256}"
description = "Counts people (0 to 3) in CSI of the project's own simulator, where they show on twelve planted tones"

[input]
name = "csi_window"
shape = [{N_TONES}, {FRAMES}]
cell_order = "tone_frame"
quantity = "amplitude"

[tones]
layout = "esp_lltf"
chip = "esp32"
training_field = "lltf"
channel = 6
bandwidth_mhz = 20

[normalisation]
kind = "manifest"
eps = 1e-6
mean = {_listed(statistics.mean)}
std = {_listed(statistics.std)}

[sampling]
rate_hz = 20.0
tolerance = 0.25

[window]
frames = {FRAMES}
hop = {HOP}

[[outputs]]
name = "count_logits"
kind = "logits"
class_names = [{names}]
trained_classes = [{", ".join(str(i) for i in range(len(CLASS_NAMES)))}]

[[outputs]]
name = "conf_logits"
kind = "logits"

# The empty room, which is what "nobody is here" looks like.
[baseline]
tones = {_listed(empty_room)}

[training]
data_sha256 = "{data_sha256}"
source = "tonescope_server.demo.simulator, scenes {TRAINING_SEEDS.start} to {TRAINING_SEEDS.stop - 1}"
"""


def _listed(values: FloatArray) -> str:
    numbers = [f"{value:.6g}" for value in values.tolist()]
    lines = [", ".join(numbers[i : i + 8]) for i in range(0, len(numbers), 8)]
    return "[\n  " + ",\n  ".join(lines) + ",\n]"


def _rounded(values: npt.NDArray[np.float64]) -> FloatArray:
    """The values as the manifest writes them: training and use then divide by the very same numbers."""
    return np.array([float(f"{value:.6g}") for value in values.tolist()], dtype=np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, train, report, and write the model store and the recording."""
    parser = argparse.ArgumentParser(description="Train the demo model and write it, with its recording.")
    parser.add_argument("--out", type=Path, required=True, help="folder for store/ and recording.csi.jsonl")
    out: Path = parser.parse_args(arguments).out
    began = time.perf_counter()

    amplitudes, people = simulated(TRAINING_SEEDS)
    frames = amplitudes.reshape(-1, N_TONES).astype(np.float64)
    statistics = Statistics(_rounded(frames.mean(axis=0)), _rounded(frames.std(axis=0)))
    training = Windows(statistics.apply(amplitudes), people)
    print(f"{len(people)} training windows of {len(TRAINING_SEEDS)} scenes, {time.perf_counter() - began:.1f} s")

    parameters = train(training)
    report(parameters, training, statistics)
    weights = save({name: np.asarray(value) for name, value in parameters.items()})
    empty_room = training.inputs[people == 0].mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    digest = hashlib.sha256(weights).hexdigest()
    text = manifest(statistics, empty_room, digest, hashlib.sha256(amplitudes.tobytes()).hexdigest())
    write(out, weights, text)
    print(f"wrote {out}, weights sha256 {digest}, {time.perf_counter() - began:.1f} s in all")


def report(parameters: Parameters, training: Windows, statistics: Statistics) -> None:
    """Print how well the model counts in scenes it has not seen, and which tones it listens to."""
    amplitudes, people = simulated(HELD_OUT_SEEDS)
    held_out = Windows(statistics.apply(amplitudes), people)
    saliency = tone_saliency(parameters, held_out.inputs)
    share = saliency[list(PLANTED_ROWS)].sum() / saliency.sum()
    print(f"accuracy: training {accuracy(parameters, training):.4f}, ", end="")
    print(f"held out {accuracy(parameters, held_out):.4f} ({len(people)} windows)")
    print(f"planted among the 8 most salient tones: {planted_in_top(saliency)}; ", end="")
    print(f"share of the saliency on planted tones: {share:.3f}")


def write(out: Path, weights: bytes, manifest_text: str) -> None:
    """Write the store with its one model, and the recording."""
    folder = out / "store" / MODEL_NAME / MODEL_VERSION
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{MODEL_NAME}.safetensors").write_bytes(weights)
    (folder / "model.toml").write_text(manifest_text, encoding="utf-8")
    (out / "recording.csi.jsonl").write_bytes(demo_recording())


if __name__ == "__main__":
    main()
