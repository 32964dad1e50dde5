import json

import pandas as pd
import pytest
import torch
from test_coder import ARCHITECTURES, spec

from bsc.coders.binarisers.registry import REGISTRY
from bsc.coders.coder import SparseCoder
from bsc.coders.load import load_coder, load_spec, save_coder
from bsc.errors import CorruptFile, UserError

LOG = pd.DataFrame({"step": [1, 2], "fvu": [0.9, 0.8]})


def saved(folder, made_from):
    coder = SparseCoder.build(made_from)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    save_coder(coder, made_from, folder, LOG)
    return coder


@pytest.mark.parametrize("binariser", list(REGISTRY))
def test_round_trip(tmp_path, binariser):
    for architecture in ARCHITECTURES:
        made_from = spec(architecture, binariser)
        coder = saved(tmp_path / architecture, made_from).eval()
        loaded = load_coder(str(tmp_path / architecture))
        x = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))
        assert torch.equal(coder(x), loaded(x.to(loaded.b_dec.device)).cpu())
        assert not loaded.training
        assert load_spec(tmp_path / architecture) == made_from
    assert sorted(path.name for path in (tmp_path / "sae").iterdir()) == [
        "coder.safetensors",
        "config.json",
        "log.parquet",
        "manifest.json",
    ]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "sae" / "log.parquet"), LOG)


def test_equal_coders_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        saved(tmp_path / name, spec())
    assert (tmp_path / "a" / "coder.safetensors").read_bytes() == (tmp_path / "b" / "coder.safetensors").read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_weights_are_refused(tmp_path, damage):
    saved(tmp_path, spec())
    path = tmp_path / "coder.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data[:-9] if damage == "truncated" else data)
    with pytest.raises(CorruptFile, match=r"coder\.safetensors"):
        load_coder(tmp_path)


def test_what_is_not_there_or_does_not_fit(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_coder(tmp_path)
    saved(tmp_path, spec())
    config = json.loads((tmp_path / "config.json").read_text())
    config["spec"]["latents"] = 96
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CorruptFile, match="not this coder's weights"):
        load_coder(tmp_path, verify=False)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CorruptFile, match="no coder's config"):
        load_coder(tmp_path, verify=False)
