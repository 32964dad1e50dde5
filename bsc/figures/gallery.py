"""`index.html`: every figure with its caption and the numbers behind it, and the findings. Text from data is escaped."""

import os
import re
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from bsc.figures.registry import FIGURES
from bsc.io import write_text
from bsc.stages import GallerySpec

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1b1b1b; }
figure { margin: 2.5rem 0; } img { max-width: 100%; height: auto; border: 1px solid #e6e6e6; }
figcaption { margin-top: .5rem; } table { border-collapse: collapse; font-size: .85rem; }
td, th { text-align: left; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid #e6e6e6; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } code { font-size: .9em; }
.holds { color: #00684a; } .fails { color: #a33d00; }
"""
_CLASSES = {"holds": "holds", "does not hold": "fails"}
_COLUMNS = ("finding", "quantity", "binary", "continuous", "difference", "95% interval", "verdict", "n", "seeds", "note")


def gallery(spec: GallerySpec, results: Path, captions: Path, output: Path) -> None:
    """Write the page. results: the results folder; captions: one NAME.rst a figure, as `snakemake --report` has them.

    Links are relative to the page, so the results folder can be moved or served as it is.
    """
    base = os.path.relpath(results, output.parent)
    parts = [_figure(name, _caption(captions, name, results), base) for name in spec.shown]
    left_out = [f"<li><code>{escape(name)}</code>: needs {escape(needs)}</li>" for name, needs in spec.left_out.items()]
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Binary sparse coding: figures</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        "<h1>Binary sparse coding: figures</h1>",
        *(_findings(results, base) if "claims" in spec.shown else []),
        *parts,
        *(["<h2>Left out</h2><p>This config does not ask for what they show.</p><ul>", *left_out, "</ul>"] if left_out else []),
        "</body></html>",
    ]
    write_text(output, "\n".join(page) + "\n")


def _caption(captions: Path, name: str, results: Path) -> str:
    """A caption as HTML: bold and code of reStructuredText, and the one variable that the captions have."""
    text = (captions / f"{name}.rst").read_text(encoding="utf-8")
    text = escape(re.sub(r"\{\{\s*snakemake\.params\.results\s*\}\}", lambda _: str(results), text).strip())
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text, flags=re.DOTALL)
    return re.sub(r"``(.+?)``", r"<code>\1</code>", text, flags=re.DOTALL)


def _figure(name: str, caption: str, base: str) -> str:
    entry = FIGURES[name]
    files = entry.files(name)
    links = ", ".join(f'<a href="{escape(base)}/{escape(file)}">{escape(file.rpartition(".")[2])}</a>' for file in files)
    image = next((file for file in files if file.endswith(".png")), None)
    shown = f'<img src="{escape(base)}/{escape(image)}" alt="{escape(name)}" loading="lazy">' if image else ""
    return (
        f'<figure id="{escape(name)}">{shown}<figcaption><code>{escape(name)}</code>: {caption} [{links}]</figcaption></figure>'
    )


def _findings(results: Path, base: str) -> list[str]:
    table = pd.read_csv(results / "tables" / "claims.csv").fillna({"note": ""})
    heads = "".join(f"<th>{escape(name)}</th>" for name in _COLUMNS)
    rows = [_finding(row) for row in table.to_dict("records")]
    return ["<h2>The four findings</h2>", f"<table><tr>{heads}</tr>", *rows, "</table>"]


def _finding(row: dict[Any, Any]) -> str:
    numbers = [f"{row[name]:.4g}" for name in ("binary", "continuous", "difference")]
    ends = f"{row['low']:.4g} to {row['high']:.4g}"
    cells = [f"<td>{escape(str(row['finding']))}: {escape(str(row['claim']))}</td><td>{escape(str(row['quantity']))}</td>"]
    cells += [f'<td class="number">{escape(number)}</td>' for number in (*numbers, ends)]
    said = str(row["verdict"])
    cells.append(f'<td class="{_CLASSES.get(said, "")}">{escape(said)}</td>')
    cells.append(
        f'<td class="number">{escape(str(row["n"]))} {escape(str(row["unit"]))}</td><td>{escape(str(row["seeds"]))}</td>'
    )
    return f"<tr>{''.join(cells)}<td>{escape(str(row['note']))}</td></tr>"
