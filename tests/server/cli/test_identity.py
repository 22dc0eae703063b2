"""Who the rows of a result are, as commands show it: MHz, declared rows, parts of complex windows, features by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.linear import write_linear
from tonescope.results import Tone, ToneTable
from tonescope_server.cli.demo import own_daemon
from tonescope_server.cli.identity import FEATURES, identity_text, megahertz_text, tone_text
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.tones import tone_table
from tonescope_server.pictures import files
from tonescope_server.pictures.answer import Answer
from tonescope_server.pictures.band import Band, band_figure

RANDOM = np.random.default_rng(23)
IQ = RANDOM.standard_normal((2, 64, 20)).astype(np.float32)
SCRAMBLED = RANDOM.standard_normal((64, 20)).astype(np.float32)
NAMES = ["variance", "doppler", "entropy"]
REST = """
[window]
frames = 20
[tones]
layout = "esp_lltf"
channel = 6
[normalisation]
kind = "recording"
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("named")
    write_linear(root / "iq", IQ, f'[input]\nquantity = "complex"\ncell_order = "component_tone_frame"{REST}')
    write_linear(root / "scrambled", SCRAMBLED, f'[input]\ncell_order = "frame_tone"{REST}')
    features = f'[input]\ncell_order = "feature"\nfeature_names = {json.dumps(NAMES)}'
    return write_linear(root / "features", np.array([1, -2, 3], np.float32), features)


@pytest.fixture(scope="module")
def address_of(store: Path) -> Iterator[str]:
    with own_daemon(store) as listening:
        yield listening


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    written: list[Figure] = []
    save = files.save
    monkeypatch.setattr(files, "save", lambda figure, path: (written.append(figure), save(figure, path)))
    return written


@pytest.mark.parametrize(
    ("tone", "name", "mhz", "text"),
    [
        (Tone(7, 7, 2.1875e6, "data", "lltf", 2439.1875), "+7", "2439.1875", "+7 at 2439.1875 MHz, row 7, data, LLTF"),
        (Tone(7, 7, 2.1875e6, "pilot", "ht_ltf"), "+7", "+2.1875", "+7 at +2.1875 MHz, row 7, pilot, HT-LTF"),
        (Tone(0, 0, 0.0, "null"), "0", "0", "0 at 0 MHz, row 0, null"),
        (Tone(3, None, None, "unknown"), "row 3", "", "row 3"),
        (Tone(2, None, None, "unknown", name="entropy"), "entropy", "", "entropy, row 2"),
        (None, "row 9", "", "row 9"),
    ],
)  # fmt: skip
def test_a_row_is_named_by_all_that_is_known_of_it(tone: Tone | None, name: str, mhz: str, text: str) -> None:
    row = tone.row if tone is not None else 9
    assert (tone_text(tone, row), megahertz_text(tone), identity_text(tone, row)) == (name, mhz, text)


def test_the_table_of_the_strongest_tones_has_their_frequencies(run, recording: Path) -> None:
    lines = run("explain", recording, "--top", "3").out.splitlines()
    heading, *rows = lines[-4:]
    assert heading.split() == ["row", "subcarrier", "MHz", "carries", "field", "mean", "|attribution|"]
    for row in rows:
        number, index, mhz, kind, field, _ = row.split()
        assert float(mhz) == 2437 + 0.3125 * int(index)
        assert int(number) % 64 == int(index) % 64
        assert (kind in ("data", "pilot"), field) == (True, "LLTF")


def test_the_json_of_every_command_has_frequencies(run, recording: Path, address: str, tmp_path: Path) -> None:
    table = run("explain", recording, "--json", "-").json["explanations"][0]["tone_table"]
    assert (table["centre_mhz"], table["tones"][63]["frequency_mhz"]) == (2437, 2436.6875)
    report = run("saliency", recording, "-o", "-").json
    assert (report["centre_mhz"], report["tones"][1]["frequency_mhz"]) == (2437, 2437.3125)
    path = tmp_path / "replay.json"
    ran = run("replay", recording, "--server", address, "-m", "people_count", "--as-fast-as-possible", "--json", path)
    assert ran.code == 0, ran.err
    for top in json.loads(path.read_text())["nodes"][0]["top"]:
        assert top["frequency_mhz"] == 2437 + 0.3125 * top["subcarrier_index"]
        assert top["training_field"] == "lltf"


def test_the_live_view_names_tones_by_their_frequency(run, recording: Path, address: str) -> None:
    ran = run("watch", recording, "--server", address, "-m", "people_count", "--as-fast-as-possible")
    assert ran.code == 0, ran.err
    first = next(line for line in ran.out.splitlines() if line.startswith("node"))
    top = first.partition("top ")[2].split(";")[0]
    index, _, mhz = top.split(" MHz")[0].partition(" at ")
    assert float(mhz) == 2437 + 0.3125 * int(index)


def test_declared_rows_are_shown_beside_the_tones_that_they_hold(run, store, recording: Path, address_of: str) -> None:
    here = run("explain", recording, "-m", "scrambled", "--store", store, "--declared-rows", "--json", "-").json
    there = run("explain", recording, "-m", "scrambled", "--server", address_of, "--declared-rows", "--json", "-").json
    assert len(here["explanations"]) > 10
    for mine, its in zip(here["explanations"], there["explanations"], strict=True):
        np.testing.assert_array_equal(mine["declared_rows"], its["declared_rows"])
        np.testing.assert_array_equal(mine["tones"], its["tones"])
        assert sum(mine["declared_rows"]) == pytest.approx(sum(mine["tones"]), rel=1e-4, abs=1e-3)
    # Row 41 of 64 × 20 holds flat cells 820 … 839: tones 52 … 63 of frame 12, and 0 … 7 of frame 13.
    assert here["declared_rows"][41] == {"row": 41, "frames": [12, 13], "tone_rows": [*range(8), *range(52, 64)]}
    shown = run("explain", recording, "-m", "scrambled", "--store", store, "--declared-rows", "--top", "64").out
    (line,) = [line for line in shown.splitlines() if line.split()[0] == "41" and "20:" in line]
    assert line.split()[2:] == ["12–13", "20:", "-12", "…", "+7"]


def test_rows_that_are_tones_are_said_to_be(run, recording: Path) -> None:
    ran = run("explain", recording, "--declared-rows")
    assert "declared rows are the tones" in ran.err


def test_parts_of_complex_windows_are_the_same_here_and_at_a_daemon(
    run, store, recording: Path, address_of: str
) -> None:
    asked = ("explain", recording, "-m", "iq", "--parts", "--json", "-")
    here, there = run(*asked, "--store", store).json, run(*asked, "--server", address_of).json
    table = here["explanations"][0]["tone_table"]
    assert (table["components"], table["links"]) == (["real", "imaginary"], [])
    assert len(here["explanations"]) == len(there["explanations"]) > 10
    for mine, its in zip(here["explanations"], there["explanations"], strict=True):
        np.testing.assert_array_equal(mine["parts"], its["parts"])
        np.testing.assert_allclose(np.sum(mine["parts"], axis=(0, 1)), mine["tones"], rtol=1e-3, atol=1e-4)
    shown = run("explain", recording, "-m", "iq", "--store", store, "--parts").out.splitlines()
    shares = [float(line.split()[2].rstrip("%")) for line in shown[-2:]]
    assert [line.split()[1] for line in shown[-2:]] == ["real", "imaginary"]
    assert sum(shares) == pytest.approx(100, abs=0.11)


def test_parts_are_drawn_one_below_the_other(
    run, store, recording: Path, tmp_path: Path, figures: list[Figure]
) -> None:
    ran = run("explain", recording, "-m", "iq", "--store", store, "--parts", "--png", tmp_path / "parts.png")
    assert ran.code == 0, ran.err
    labels = [axes.get_ylabel() for axes in figures[0].axes]
    assert [label.split("\n")[0] for label in labels if label] == ["real", "imaginary"]
    ran = run("explain", recording, "-m", "iq", "--store", store, "--png", tmp_path / "map.png")
    assert ran.code == 0, ran.err


def test_features_are_said_to_be_none_and_named(
    run, store, address_of: str, tmp_path: Path, figures: list[Figure]
) -> None:
    path = tmp_path / "features.npy"
    np.save(path, np.array([[1, 1, 1], [1, 2, 0]], np.float32))
    for where in (("--store", store), ("--server", address_of)):
        ran = run("explain", path, "-m", "features", "--png", tmp_path / "features.png", *where)
        assert ran.code == 0, ran.err
        assert FEATURES in ran.err
        assert [line.split()[:2] for line in ran.out.splitlines()[-3:]] == [
            ["1", "doppler"],
            ["2", "entropy"],
            ["0", "variance"],
        ]
        assert [label.get_text() for label in figures[-1].axes[0].get_xticklabels()] == NAMES
    report = run("explain", path, "-m", "features", "--store", store, "--json", "-").json
    assert report["explanations"][0]["tone_table"]["rows_are"] == "features"


def test_pictures_say_the_frequency_where_it_is_known_and_the_offset_where_it_is_not() -> None:
    def labels(frequency: bool) -> list[str]:
        tones = tuple(Tone(k, k, k * 312500.0, "data", "", 2437 + k * 0.3125 if frequency else None) for k in range(8))
        table = ToneTable("x", tones, centre_mhz=2437 if frequency else None)
        figure = band_figure(Band("a", "b", table, np.ones(8)))
        return [child.get_xlabel() for child in figure.axes[0].child_axes]

    assert labels(True) == ["frequency (MHz)"]
    assert labels(False) == ["offset from the centre frequency (MHz)"]


def test_a_model_is_described_with_all_that_its_windows_hold(run, store) -> None:
    found = run("inspect", store / "iq", "--json").json
    assert (found["window"]["components"], found["centre_mhz"]) == (["real", "imaginary"], 2437)
    out = run("inspect", store / "iq").out
    assert "20 frames x 64 tones x real, imaginary in order component_tone_frame" in out
    assert "around 2437 MHz" in out
    assert not run("inspect", store / "scrambled", "--json").json["window"]["rows_are_declared_tones"]
    assert "1 frames x 3 features in order feature" in run("inspect", store / "features").out


def test_the_doctor_checks_complex_windows_as_far_as_it_can_and_says_how_far(run, store, recording: Path) -> None:
    report = run("doctor", "iq", recording, "--store", store, "--json", "-").json
    said = {finding["code"]: finding for finding in report["findings"]}
    assert "other cell orders and layouts were not tried" in said["NOT_CHECKED"]["message"]
    assert "NULL_TONE_SHARE" not in said


def test_six_links_of_a_real_capture_are_one_window_and_thirty_tones(run, shared: Path, tmp_path: Path) -> None:
    links = [f"rx{rx} tx{tx}" for rx in range(3) for tx in range(2)]
    weights = RANDOM.standard_normal((6, 2, 30, 10)).astype(np.float32)
    stated = f"""
[input]
quantity = "complex"
links = {json.dumps(links)}
cell_order = "link_component_tone_frame"
[window]
frames = 10
[tones]
layout = "intel5300_ht20"
channel = 64
[normalisation]
kind = "recording"
"""
    store = write_linear(tmp_path / "store" / "linked", weights, stated)
    capture = shared / "real" / "captures" / "intel5300_0x1_ap.dat"
    asked = ("explain", capture, "-m", "linked", "--parts", "--json", "-")
    here = run(*asked, "--store", store).json["explanations"]
    with own_daemon(store) as listening:
        there = run(*asked, "--server", listening).json["explanations"]
    assert len(here) == len(there) > 10
    for mine, its in zip(here, there, strict=True):
        assert np.shape(mine["parts"]) == (6, 2, 30)
        np.testing.assert_array_equal(mine["parts"], its["parts"])
        np.testing.assert_allclose(np.sum(mine["parts"], axis=(0, 1)), mine["tones"], rtol=1e-3, atol=1e-4)
    table = here[0]["tone_table"]
    assert (table["links"], table["centre_mhz"]) == (links, 5320)
    assert [table["tones"][row]["frequency_mhz"] for row in (0, 29)] == [5311.25, 5328.75]


def test_the_waterfall_under_a_map_is_the_magnitude_of_complex_values_averaged_over_links() -> None:
    cells = cell_map(
        (2, 2, 30, 4), tone_table("intel5300_ht20"), "link_component_tone_frame", 4, ("a", "b"), ("real", "imaginary")
    )
    values = RANDOM.standard_normal((2, 2, 30, 4))
    expected = np.hypot(values[:, 0], values[:, 1]).mean(axis=0).T
    answer = Answer("", "", "", cells.table, cells, np.zeros(30), window=values)
    assert answer.waterfall is not None
    np.testing.assert_allclose(answer.waterfall, expected)
