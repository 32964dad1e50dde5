import pytest
import torch
from sparsify import SparseCoder as Theirs
from sparsify import sparse_coder
from sparsify.utils import eager_decode
from test_coder import ARCHITECTURES, spec
from test_load_coder import saved

from bsc.coders.binarisers.registry import REGISTRY
from bsc.coders.export import export_sparsify
from bsc.errors import UserError
from bsc.stages import FrequencySpec


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("binariser", ["topk", "groupmax"])
def test_sparsify_computes_the_same(tmp_path, monkeypatch, architecture, binariser):
    monkeypatch.setattr(sparse_coder, "decoder_impl", eager_decode)  # else it decodes by Triton wherever that is installed
    coder = saved(tmp_path / "coder", spec(architecture, binariser)).eval()
    export_sparsify(tmp_path / "coder", tmp_path / "layers.9.mlp")
    theirs = Theirs.load_many(str(tmp_path), local=True, layers=["layers.9.mlp"])["layers.9.mlp"]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 12, generator=generator) * 2
    y = x if architecture == "sae" else torch.randn(50, 12, generator=generator)
    with torch.no_grad():
        code, out = coder.encode(x), theirs(x, y)
        torch.testing.assert_close(coder(x), out.sae_out, rtol=1e-5, atol=1e-5)
        dense = torch.zeros(50, 48).scatter(1, code.indices, code.values)
        torch.testing.assert_close(dense, torch.zeros(50, 48).scatter(1, out.latent_indices, out.latent_acts))
    assert theirs.cfg.k == 6
    assert theirs.cfg.normalize_decoder == coder.unit_norm
    assert code.values.any()


@pytest.mark.parametrize("binariser", sorted(set(REGISTRY) - {"topk", "groupmax"}))
def test_what_sparsify_does_not_know_is_refused(tmp_path, binariser):
    saved(tmp_path / "coder", spec("sae", binariser))
    with pytest.raises(UserError, match=f"sparsify has no `{binariser}`"):
        export_sparsify(tmp_path / "coder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_balanced_coder_is_refused(tmp_path):
    control = FrequencySpec(control="bias", cap=0.1, strength=0.1, memory_tokens=100)
    saved(tmp_path / "coder", spec("sae", "topk").model_copy(update={"frequency": control}))
    with pytest.raises(UserError, match="no bias that decides"):
        export_sparsify(tmp_path / "coder", tmp_path / "out")
    assert not (tmp_path / "out").exists()
