"""``docs/formats.md`` lists every decoder and every tone layout there is, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path

from tonescope_server.csi.tones import tone_layouts, tone_table
from tonescope_server.plugin.host import PluginHost

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
STATUSES = {"verified", "vendor", "assumed"}


def rows(first_heading: str) -> list[list[str]]:
    """The cells of the table whose first heading this is."""
    lines = iter(TEXT.splitlines())
    for line in lines:
        if line.startswith(f"| {first_heading} |"):
            break
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


FORMATS, LAYOUTS = rows("format"), rows("layout")


def test_the_table_of_formats_is_the_list_of_decoders():
    assert sorted(row[0].strip("`") for row in FORMATS) == sorted(PluginHost.load().decoders)


def test_every_format_says_what_is_kept_and_how_sure_it_is():
    for name, file, kept, layout, status in FORMATS:
        assert file, name
        assert kept, name
        assert layout, name
        assert status in STATUSES, name


def test_every_layout_a_format_names_exists():
    named = {layout for *_, layouts, _ in FORMATS for layout in re.findall(r"`([a-z]\w+)`", layouts)}
    assert named <= {*tone_layouts(), *PluginHost.load().decoders}
    assert len(named) > 15


def test_the_table_of_layouts_is_the_list_of_layouts():
    expected = [[f"`{each}`", str(len(tone_table(each))), tone_table(each).status] for each in tone_layouts()]
    assert sorted(LAYOUTS) == sorted(expected)


def test_the_readme_leads_there():
    assert "](docs/formats.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
