"""A coder as a folder: coder.safetensors, config.json, log.parquet, and manifest.json, which is written last."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bsc.coders.coder import SparseCoder
from bsc.device import device
from bsc.errors import CorruptFile
from bsc.io import read_json, read_manifest, read_tensors, write_json, write_manifest, write_parquet, write_tensors
from bsc.stages import CoderSpec

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS, CONFIG, LOG = "coder.safetensors", "config.json", "log.parquet"


def save_coder(coder: SparseCoder, spec: CoderSpec, folder: Path | str, log: "pd.DataFrame", digest: str | None = None) -> None:
    """Write a coder, the spec it was trained by and its training log; `digest`, if there is one, goes into the manifest.

    Raises UserError when the disk is full.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu() for name, tensor in coder.state_dict().items()}
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_json(folder / CONFIG, {**facts(coder), "spec": spec.model_dump()})
    write_parquet(folder / LOG, log)
    write_manifest(folder, [WEIGHTS, CONFIG, LOG], {**facts(coder), **({"digest": digest} if digest else {})})


def facts(coder: SparseCoder) -> dict[str, Any]:
    """What a reader of the folder wants to know of a coder without loading it."""
    return {
        "class": type(coder).__name__,
        "binariser_class": type(coder.binariser).__name__,
        "reads": coder.reads,
        "unit_norm": coder.unit_norm,
        "parameters": {name: list(tensor.shape) for name, tensor in coder.state_dict().items()},
    }


def load_spec(folder: Path | str) -> CoderSpec:
    """The spec that a coder was trained by. Raises CorruptFile when config.json holds none."""
    path = Path(folder) / CONFIG
    try:
        return CoderSpec.model_validate(read_json(path)["spec"])
    except (ValidationError, KeyError, TypeError) as error:
        raise CorruptFile(f"no coder's config ({error})", where=str(path), fix=_anew(path)) from error


def load_coder(folder: Path | str, *, verify: bool = True) -> SparseCoder:
    """The trained coder of a folder, in evaluation mode, on `bsc.device.device()`.

    verify: check every file against the manifest first. Raises CorruptFile when a file is cut short or altered, UserError when
    it is not there.
    """
    folder = Path(folder)
    read_manifest(folder, verify=verify)
    coder = SparseCoder.build(load_spec(folder))
    try:
        coder.load_state_dict(read_tensors(folder / WEIGHTS))
    except RuntimeError as error:
        raise CorruptFile(f"not this coder's weights ({error})", where=str(folder / WEIGHTS), fix=_anew(folder)) from error
    return coder.to(device()).eval()


def _anew(path: Path) -> str:
    return f"delete {path} and run again: it is made anew"
