"""An answer draws itself: in the way that suits the model and the method, or as asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.linear import write_linear
from tonescope_server import Explainer
from tonescope_server.demo import store_path
from tonescope_server.errors import ParameterError

RANDOM = np.random.default_rng(7)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    write_linear(root / "image", RANDOM.standard_normal((3, 6, 8)).astype(np.float32), "")
    iq = '[input]\nquantity = "complex"\ncell_order = "component_tone_frame"\n[window]\nframes = 4\n'
    tones = '[tones]\nlayout = "esp_lltf"\n'
    write_linear(root / "iq", RANDOM.standard_normal((2, 64, 4)).astype(np.float32), iq + tones)
    return write_linear(
        root / "flat", RANDOM.standard_normal(5).astype(np.float32), '[input]\ncell_order = "feature"\n'
    )


def explained(store: Path, name: str, method: str = "input_x_gradient"):  # type: ignore[no-untyped-def]
    explainer = Explainer.load(name, store=store)
    x = RANDOM.standard_normal((2, *explainer.model.input.shape[1:])).astype(np.float32)
    return explainer.explain(x, method)


@pytest.mark.parametrize(
    ("name", "method", "kinds"),
    [
        ("image", "input_x_gradient", ["image", "map", "band"]),
        ("iq", "input_x_gradient", ["parts", "map", "band"]),
        ("flat", "input_x_gradient", ["band"]),
        ("flat", "subcarrier_saliency", ["band"]),
    ],
)
def test_each_answer_knows_what_can_be_drawn_of_it_and_draws_it(
    store: Path, name: str, method: str, kinds: list[str]
) -> None:
    found = explained(store, name, method)
    assert list(found.answer(1).kinds) == kinds
    for kind in (None, *kinds):
        figure = found.plot(1, kind)
        assert isinstance(figure, Figure)
        assert "window 1" in figure.texts[1].get_text()


def test_pixels_are_the_sum_over_channels_and_lie_over_the_window_itself(store: Path) -> None:
    found = explained(store, "image")
    answer = found.answer(1)
    np.testing.assert_allclose(answer.pixels, found.cells[1].sum(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(answer.image, found.windows[1].transpose(1, 2, 0))


def test_a_map_of_the_demonstration_has_its_nulls_and_its_prediction() -> None:
    explainer = Explainer.load("people_count", store=store_path())
    found = explainer.explain(np.zeros((1, 64, 20), np.float32), "grad_cam")
    assert list(found.answer().kinds) == ["map", "band", "maps"]
    name = found.prediction.class_names[found.prediction.class_index[0]]
    figure = found.plot()
    assert figure.texts[0].get_text().startswith(f"{name} ")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "null tone" in legend
    assert "on a tone without signal" not in legend  # this method tells no tones apart
    found.plot(kind="maps")


def test_what_cannot_be_drawn_is_refused_with_what_can(store: Path, tmp_path: Path) -> None:
    found = explained(store, "flat")
    with pytest.raises(ParameterError, match="picture of 'input_x_gradient': expected one of band, got 'image'"):
        found.plot(kind="image")
    with pytest.raises(ParameterError, match="window: expected 0 to 1, got 2"):
        found.plot(2)
    found.plot(path=tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_matplotlib_is_not_imported_before_something_is_drawn() -> None:
    code = (
        "import sys, numpy as np\n"
        "import tonescope_server.app, tonescope_server.cli.watch\n"
        "from tonescope_server import Explainer\n"
        "from tonescope_server.demo import store_path\n"
        "e = Explainer.load('people_count', store=store_path())\n"
        "r = e.explain(np.zeros((1, 64, 20), np.float32))\n"
        "assert 'matplotlib' not in sys.modules\n"
        "r.plot()\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
