"""A coder in the format of EleutherAI's `sparsify`, the library of the paper's authors.

`sparsify` (1.3) knows continuous coders: TopK and GroupMax, as SAE, transcoder and skip-transcoder, by the same formulas. Its
names: encoder.weight is our W_enc, encoder.bias our b_enc; W_dec, b_dec and W_skip are the same. `transcode` is what keeps
it from subtracting b_dec before it encodes.
"""

from pathlib import Path

from bsc.coders.coder import SparseCoder
from bsc.coders.load import load_coder
from bsc.errors import UserError
from bsc.io import write_json, write_tensors

_KNOWN = ("topk", "groupmax")
_RENAMED = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}


def export_sparsify(folder: Path, output: Path) -> None:
    """Write the coder of `folder` so that `sparsify.SparseCoder.load_from_disk(output)` reads it: two files.

    To load several with `load_many`, name each output folder after its hookpoint. Raises UserError for a coder that the
    library does not know, CorruptFile when it is damaged.
    """
    coder = load_coder(folder)
    if coder.binariser_key not in _KNOWN:
        raise UserError(
            f"sparsify has no `{coder.binariser_key}`: it reads {' and '.join(_KNOWN)} coders only",
            where=str(folder),
            fix="load it with bsc.coders.load.load_coder instead",
        )
    if coder.binariser.bias is not None:
        raise UserError(
            "sparsify has no bias that decides what is selected, and this coder was trained with one (`control: bias`)",
            where=str(folder),
            fix="load it with bsc.coders.load.load_coder instead",
        )
    tensors = {_RENAMED.get(name, name): tensor.cpu() for name, tensor in coder.state_dict().items()}
    write_tensors(output / "sae.safetensors", tensors, {"format": "pt"})
    write_json(output / "cfg.json", _config(coder))


def _config(coder: SparseCoder) -> dict[str, object]:
    return {
        "activation": coder.binariser_key,
        "expansion_factor": coder.latents // coder.width,
        "normalize_decoder": coder.unit_norm,
        "num_latents": coder.latents,
        "k": coder.k,
        "multi_topk": False,
        "skip_connection": coder.W_skip is not None,
        "transcode": not coder.is_sae,
        "d_in": coder.width,
    }
