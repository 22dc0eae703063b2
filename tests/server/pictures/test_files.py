"""Pictures on disk, and pages of them."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tonescope_server.errors import ConfigurationError, ParameterError
from tonescope_server.pictures.figure import new_figure
from tonescope_server.pictures.files import save, write_page


@pytest.mark.parametrize("name", ["band.txt", "band", "band.PNG.bak"])
def test_a_file_that_is_no_picture_is_refused_with_those_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ParameterError, match=r"expected a picture file \(.*jpg.*png.*svg.*\), got '(\.txt||\.bak)'$"
    ) as caught:
        save(new_figure(2, 1), tmp_path / name)
    assert name in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_suffix_in_capitals_is_the_same_picture_and_folders_are_made(tmp_path: Path) -> None:
    save(new_figure(2, 1), tmp_path / "new" / "band.PNG")
    with Image.open(tmp_path / "new" / "band.PNG") as picture:
        assert picture.format == "PNG"


def test_a_place_that_cannot_be_written_to_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written: ") as caught:
        save(new_figure(2, 1), tmp_path / "file" / "band.png")
    assert "\n" not in str(caught.value)


def test_a_page_needs_no_other_file_and_shows_words_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, "a < b", [("one & two", new_figure(2, 1)), ("three", new_figure(3, 1))], ["said"], ["<beware>"])
    page = path.read_text()
    assert "<h1>a &lt; b</h1>" in page
    assert "&lt;beware&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    sizes = []
    for picture in re.findall(r"data:image/png;base64,([^\"]+)", page):
        with Image.open(BytesIO(base64.b64decode(picture))) as image:
            sizes.append(image.size)
    assert sizes == [(300, 150), (450, 150)]


def test_a_figure_shows_itself_in_a_notebook_without_pyplot() -> None:
    with Image.open(BytesIO(new_figure(2, 1)._repr_png_())) as image:
        assert (image.format, image.size) == ("PNG", (300, 150))
