"""Pictures on disk: one file, or a page of several that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tonescope_server.errors import ConfigurationError, ParameterError
from tonescope_server.pictures.figure import png_of

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1040px; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
img { max-width: 100%; border: 1px solid #ddd; margin: .6em 0 }
p.warning { border-left: 5px solid #e6a700; padding: .1em 1em } .faint { color: #666 }
"""


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the file's suffix names.

    Raises:
        ParameterError: no picture has that suffix.
        ConfigurationError: the file cannot be written.
    """
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise ParameterError(f"{path}: expected a picture file ({', '.join(sorted(known))}), got '{path.suffix}'")
    _write(path, lambda: figure.savefig(path))


def write_page(
    path: Path,
    title: str,
    figures: Sequence[tuple[str, Figure]],
    lines: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> None:
    """Write a page of captioned figures, under what there is to say in words.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f'<p class="faint">{html.escape(line)}</p>' for line in lines]
    parts += [f'<p class="warning">{html.escape(line)}</p>' for line in warnings]
    for caption, figure in figures:
        said = html.escape(caption)
        picture = base64.b64encode(png_of(figure)).decode("ascii")
        parts += [f"<h2>{said}</h2>", f'<img alt="{said}" src="data:image/png;base64,{picture}">']
    head = f'<meta charset="utf-8"><title>tonescope: {html.escape(title)}</title><style>{STYLE}</style>'
    page = f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'
    _write(path, lambda: path.write_text(page, encoding="utf-8"))


def _write(path: Path, write: Callable[[], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror or error}") from error
