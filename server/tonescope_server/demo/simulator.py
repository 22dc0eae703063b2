"""A multipath simulator of WiFi CSI with *planted* tones, so that an explanation can be held against the truth.

Here belong the channel, the people in it and the receiver. Files, training and the demo itself do not.

Physical: a line-of-sight path and static reflections with their delays, a receive filter, walking people as moving
point scatterers (torso and two limbs, phase from the true path length at the true tone frequency), absorption of the
diffuse field by bodies, thermal noise, a random phase per packet, slow gain drift, jittered packet times, int8 I/Q.

Planted, and not physical: the people's effect (scattering and absorption) is applied to ``PLANTED_SUBCARRIERS`` and
to no other tone. In a real room it falls on every tone. For the same reason the receiver's gain and RSSI follow the
drift alone: a gain that reacted to people would carry them to every tone. Absorption is also stronger than in most
rooms, so that one second of CSI is enough to count. Nothing measured on this simulator says how well counting works
in a real room; it says whether an explanation finds the tones that matter, where they are known.

Everything is a function of the scene and its seed. Each noise source draws from its own counter-based stream
(Philox), so two scenes that differ in people alone are equal, byte for byte, on every tone that is not planted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Complex128Array = npt.NDArray[np.complex128]

TONE_LAYOUT = "esp_lltf"
N_TONES = 64
MAX_PEOPLE = 3
PLANTED_SUBCARRIERS = (-24, -19, -15, -11, -5, -2, 3, 9, 12, 17, 20, 25)
"""Signed subcarrier indices of the twelve tones, all of them data tones, on which people show."""

SUBCARRIER_INDICES = np.array([row if row < N_TONES // 2 else row - N_TONES for row in range(N_TONES)])
"""Signed subcarrier index by array row, as the ESP32 stores an LLTF."""
NULL_ROWS = (0, *range(27, 38))
PLANTED_ROWS = tuple(index % N_TONES for index in PLANTED_SUBCARRIERS)
"""Array rows of ``PLANTED_SUBCARRIERS``, in the same order."""

SPEED_OF_LIGHT_M_S = 299_792_458.0
CENTRE_HZ = 2_437e6  # channel 6
SPACING_HZ = 312_500.0
TONE_HZ = CENTRE_HZ + SPACING_HZ * SUBCARRIER_INDICES

ROOM_M = np.array([6.0, 5.0])
TRANSMITTER_M = np.array([0.3, 2.5])
NODES_M = {1: np.array([5.7, 1.2]), 2: np.array([5.7, 3.9])}
ROOM_SEED = 20  # walls and furniture: the same room in every scene
REFLECTIONS = 6

LINE_OF_SIGHT_COUNTS = 26.0  # ADC counts; an ESP32 leaves about this much of int8
REFLECTION_GAIN = 0.01  # of the line of sight, typical
TORSO_GAIN = 0.05  # of the line of sight, for a person in the middle of the room
LIMB_GAIN = 0.015
ABSORPTION_DB = 1.6  # per person
NOISE_COUNTS = 0.5  # per I and per Q
GAIN_DRIFT_DB = 0.1  # root mean square
JITTER_S = 0.006
ENTRY_S = 0.5  # how long a person takes to come in or to leave
RSSI_DBM = {1: -47.0, 2: -51.0}

# What each random stream is for: the upper half of the Philox key's second word.
_ROOM, _PERSON, _DRIFT, _NOISE, _CLOCK = range(5)


@dataclass(frozen=True)
class Scene:
    """What happens in the room.

    Attributes:
        schedule: (seconds, people) one after the other; people in 0..3.
        seed: decides how people move, and all noise. The room itself is always the same.
        rate_hz: frames per second and node.
    """

    schedule: tuple[tuple[float, int], ...]
    seed: int
    rate_hz: float = 20.0


@dataclass(frozen=True)
class Capture:
    """What one node received.

    Attributes:
        node_id: 1 or 2.
        time_s: seconds since the scene began, shape (n_frames,).
        iq: int8, shape (n_frames, 64, 2): imaginary part, then real part, as the ESP32 stores them.
        rssi_dbm: shape (n_frames,).
        people: how many people the schedule says are there, shape (n_frames,).
        steady: whether nobody is coming in or leaving at that moment, shape (n_frames,).
    """

    node_id: int
    time_s: Float64Array
    iq: npt.NDArray[np.int8]
    rssi_dbm: npt.NDArray[np.int64]
    people: npt.NDArray[np.int64]
    steady: npt.NDArray[np.bool_]

    @property
    def amplitude(self) -> npt.NDArray[np.float32]:
        """Amplitude per frame and tone in ADC counts, float32, shape (n_frames, 64)."""
        parts = self.iq.astype(np.float64)
        return np.hypot(parts[..., 0], parts[..., 1]).astype(np.float32)


def simulate(scene: Scene) -> tuple[Capture, ...]:
    """Simulate a scene as every node sees it.

    Raises:
        ValueError: a schedule that is empty, or has a span without length or people outside 0..3.
    """
    if not scene.schedule or any(s <= 0 or not 0 <= n <= MAX_PEOPLE for s, n in scene.schedule):
        raise ValueError(f"schedule: expected spans (seconds > 0, people 0..{MAX_PEOPLE}), got {scene.schedule}")
    return tuple(_capture(scene, node_id) for node_id in NODES_M)


def _capture(scene: Scene, node_id: int) -> Capture:
    time_s = _packet_times(scene, node_id)
    presence = np.stack([_presence(scene, person, time_s) for person in range(MAX_PEOPLE)])
    drift_db = _slow_drift(_stream(scene.seed, _DRIFT, node_id), time_s, GAIN_DRIFT_DB)
    channel = _static_channel(scene.seed, node_id, time_s)
    planted = list(PLANTED_ROWS)
    channel[:, planted] *= 10.0 ** (-ABSORPTION_DB * presence.sum(axis=0) / 20.0)[:, None]
    for person in range(MAX_PEOPLE):
        echo = _scattered(scene.seed, person, node_id, time_s, TONE_HZ[planted])
        channel[:, planted] += presence[person][:, None] * echo
    gain = LINE_OF_SIGHT_COUNTS * 10.0 ** (drift_db / 20.0)
    return Capture(
        node_id=node_id,
        time_s=time_s,
        iq=_receive(channel * gain[:, None], scene.seed, node_id),
        rssi_dbm=np.rint(RSSI_DBM[node_id] + drift_db).astype(np.int64),
        people=_people(scene, time_s),
        steady=np.all((presence < 1e-9) | (presence > 1.0 - 1e-9), axis=0),
    )


def _stream(seed: int, purpose: int, index: int) -> np.random.Generator:
    """An independent stream for one purpose: what it yields depends on nothing else in the scene."""
    key = np.array([seed, (purpose << 32) | index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _packet_times(scene: Scene, node_id: int) -> Float64Array:
    duration_s = sum(seconds for seconds, _ in scene.schedule)
    n_frames = round(duration_s * scene.rate_hz)
    jitter = _stream(scene.seed, _CLOCK, node_id).uniform(-JITTER_S, JITTER_S, n_frames)
    phase = node_id / (len(NODES_M) + 1)  # the nodes take turns
    return (np.arange(n_frames) + phase) / scene.rate_hz + jitter


def _edges(scene: Scene) -> tuple[Float64Array, npt.NDArray[np.int64]]:
    ends = np.cumsum([seconds for seconds, _ in scene.schedule])
    return ends, np.array([people for _, people in scene.schedule])


def _people(scene: Scene, time_s: Float64Array) -> npt.NDArray[np.int64]:
    ends, people = _edges(scene)
    return people[np.minimum(np.searchsorted(ends, time_s, side="right"), len(people) - 1)].astype(np.int64)


def _presence(scene: Scene, person: int, time_s: Float64Array) -> Float64Array:
    """How much of a person is in the room, 0..1: the schedule's 0/1, smoothed over ``ENTRY_S``."""
    ends, people = _edges(scene)
    knots = np.concatenate([[-1.0, 0.0], ends[:-1], [ends[-1] + 1.0]])
    there = (people > person).astype(np.float64)
    there = np.concatenate([there[:1], there])
    integral = np.concatenate([[0.0], np.cumsum(there * np.diff(knots))])
    half = ENTRY_S / 2
    later, earlier = (np.interp(time_s + shift, knots, integral) for shift in (half, -half))
    return np.asarray((later - earlier) / ENTRY_S)


def _slow_drift(rng: np.random.Generator, time_s: Float64Array, rms: float) -> Float64Array:
    """A sum of slow sines (periods of 15 to 90 s) with random phases."""
    periods = rng.uniform(15.0, 90.0, 4)
    phases = rng.uniform(0.0, 2 * np.pi, 4)
    waves = np.sin(2 * np.pi * time_s[:, None] / periods + phases)
    return np.asarray(rms * waves.sum(axis=1) / np.sqrt(2.0))


def _static_channel(seed: int, node_id: int, time_s: Float64Array) -> Complex128Array:
    """The empty room times the receive filter, relative to the line of sight, shape (n_frames, 64); nulls are 0."""
    room = _stream(ROOM_SEED, _ROOM, node_id)
    direct_m = float(np.linalg.norm(NODES_M[node_id] - TRANSMITTER_M))
    extra_m = room.uniform(2.0, 40.0, REFLECTIONS)
    gains = REFLECTION_GAIN * room.rayleigh(1.0, REFLECTIONS)
    delays_s = (direct_m + extra_m) / SPEED_OF_LIGHT_M_S
    channel = np.exp(-2j * np.pi * TONE_HZ * direct_m / SPEED_OF_LIGHT_M_S)[None, :].repeat(len(time_s), axis=0)
    for path in range(REFLECTIONS):
        creep = _slow_drift(_stream(seed, _ROOM, node_id * 100 + path), time_s, 0.2)
        phase = 2 * np.pi * TONE_HZ * delays_s[path]
        channel += gains[path] * np.exp(-1j * (phase[None, :] + creep[:, None]))
    # The front end's own shape: both nodes are the same product, so both have it.
    receive_filter = 1.0 - 0.28 * np.sin(np.pi * np.abs(SUBCARRIER_INDICES) / 26.0) ** 2
    channel = channel * receive_filter
    channel[:, list(NULL_ROWS)] = 0.0
    return np.asarray(channel, dtype=np.complex128)


def _walk(rng: np.random.Generator, time_s: Float64Array) -> Float64Array:
    """A smooth path through the room, shape (n_frames, 2), in metres; walking speed about 0.5 m/s."""
    frequencies = rng.uniform(0.02, 0.12, (2, 3))
    phases = rng.uniform(0.0, 2 * np.pi, (2, 3))
    weights = rng.dirichlet(np.ones(3), 2)
    waves = np.sin(2 * np.pi * frequencies * time_s[:, None, None] + phases)
    return np.asarray(ROOM_M * (0.5 + 0.4 * (weights * waves).sum(axis=-1)))


def _scattered(seed: int, person: int, node_id: int, time_s: Float64Array, tone_hz: Float64Array) -> Complex128Array:
    """What one person scatters to a node, relative to the line of sight, shape (n_frames, n_tones)."""
    rng = _stream(seed, _PERSON, person)
    torso_m = _walk(rng, time_s)
    size = rng.uniform(0.8, 1.2)
    parts = [(TORSO_GAIN, torso_m)]
    for _ in range(2):
        swing_hz, phase, heading = rng.uniform(0.8, 1.8), *rng.uniform(0.0, 2 * np.pi, 2)
        swing_m = 0.25 * np.sin(2 * np.pi * swing_hz * time_s + phase)
        parts.append((LIMB_GAIN, torso_m + swing_m[:, None] * [np.cos(heading), np.sin(heading)]))
    reference_m2 = float(np.linalg.norm(ROOM_M) / 2) ** 2
    echo = np.zeros((len(time_s), len(tone_hz)), dtype=np.complex128)
    for gain, place_m in parts:
        out_m = np.linalg.norm(place_m - TRANSMITTER_M, axis=1)
        back_m = np.linalg.norm(place_m - NODES_M[node_id], axis=1)
        strength = size * gain * reference_m2 / np.maximum(out_m * back_m, reference_m2 / 2)
        phase = 2 * np.pi * tone_hz * ((out_m + back_m) / SPEED_OF_LIGHT_M_S)[:, None]
        echo += strength[:, None] * np.exp(-1j * phase)
    return echo


def _receive(signal: Complex128Array, seed: int, node_id: int) -> npt.NDArray[np.int8]:
    """Add noise and the packet's random phase, then quantise to int8 (imaginary, real); nulls stay exactly 0."""
    rng = _stream(seed, _NOISE, node_id)
    turn = np.exp(1j * rng.uniform(0.0, 2 * np.pi, len(signal)))[:, None]
    noise = rng.normal(0.0, NOISE_COUNTS, (*signal.shape, 2))
    turned = signal * turn
    counts = np.stack([turned.imag, turned.real], axis=-1) + noise
    counts[:, list(NULL_ROWS)] = 0.0
    return np.clip(np.rint(counts), -127, 127).astype(np.int8)
