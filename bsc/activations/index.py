"""The index of a hookpoint's activations: which shards there are, in order, and what their bytes are."""

import json
import os
from pathlib import Path
from typing import Any

from bsc.errors import CorruptFile, UserError
from bsc.io import describe, write_json


def write_index(shards: list[Path], context: int, output: Path) -> None:
    """Write the JSON index of the shard files of one hookpoint, in the order given.

    context: tokens in a context. Paths are kept relative to the index, so that the folder may be moved. Raises CorruptFile for
    a shard that is no such safetensors file, UserError when the shards do not belong together.
    """
    entries = [_entry(path, output) for path in shards]
    for path, entry in zip(shards, entries, strict=True):
        _check(path, entry, entries[0]["width"], context, shards[0].name)
    index = {
        "hookpoint": shards[0].name.removesuffix(".safetensors"),
        "context": context,
        "width": entries[0]["width"],
        "rows": sum(entry["rows"] for entry in entries),
        "shards": [{key: value for key, value in entry.items() if key != "width"} for entry in entries],
    }
    write_json(output, index)


def _entry(path: Path, output: Path) -> dict[str, Any]:
    rows, width = _shape(path)
    return {"path": os.path.relpath(path, output.parent), "rows": rows, "width": width, **describe(path)}


def _shape(path: Path) -> tuple[int, int]:
    """[rows, width] of a shard, from its header alone."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        size = 8 + length + max(header[name]["data_offsets"][1] for name in ("input", "output"))
        shapes = {(header[name]["dtype"], *header[name]["shape"]) for name in ("input", "output")}
        ((dtype, rows, width),) = shapes
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path), fix="run the stage that makes it first") from error
    except (ValueError, KeyError, TypeError, MemoryError) as error:
        raise CorruptFile("no shard of activations", where=str(path), fix=f"delete {path} and run again") from error
    if dtype != "BF16" or path.stat().st_size != size:
        raise CorruptFile("not a whole shard of bf16 activations", where=str(path), fix=f"delete {path} and run again")
    return int(rows), int(width)


def _check(path: Path, entry: dict[str, Any], width: int, context: int, name: str) -> None:
    faults = {
        f"its width is {entry['width']} and that of the first shard {width}": entry["width"] != width,
        f"its {entry['rows']} rows are no whole contexts of {context}": entry["rows"] % context != 0,
        f"it is of another hookpoint than the first shard, {name}": path.name != name,
    }
    for fault, found in faults.items():
        if found:
            raise UserError(fault, where=str(path), fix="delete the shard and run again: it is made anew")
