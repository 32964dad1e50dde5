"""Names of binarisers and of their variants, and what each one in the registry has to keep to, one that is added too."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bsc import paths
from bsc.coders.binarisers import registry
from bsc.coders.binarisers.registry import REGISTRY, Entry, in_order, is_binariser, kind_of
from bsc.coders.coder import SparseCoder
from bsc.paths import CoderId

WIDTH, LATENTS, K = 8, 60, 6


def coder_and_batch(key: str) -> tuple[SparseCoder, torch.Tensor]:
    """A coder of a few latents with thresholds and the like set from its first batch, and that batch."""
    generator = torch.Generator().manual_seed(0)
    coder = SparseCoder(WIDTH, LATENTS, K, "transcoder", key, generator=generator)
    x = torch.randn(50, WIDTH, generator=generator)
    coder.initialise_from(x, x)
    return coder, x


@pytest.mark.parametrize("key", REGISTRY)
def test_a_binariser_selects_some_latents_and_gives_no_negative_value(key: str) -> None:
    """A latent fires where its value is above 0: a negative one would reconstruct and count as silent."""
    coder, x = coder_and_batch(key)
    code = coder.encode(x, torch.Generator().manual_seed(1))
    assert (code.values >= 0).all()
    assert (code.values > 0).any()
    if code.indices is not None:
        assert code.indices.shape == code.values.shape
        assert code.indices.shape[1] <= K
        assert (code.indices.diff(dim=1) > 0).all()


@pytest.mark.parametrize("key", [key for key, entry in REGISTRY.items() if entry.ranked])
def test_a_binariser_that_ranks_latents_heeds_the_bias_of_frequency_control(key: str) -> None:
    coder, x = coder_and_batch(key)
    before = coder.encode(x).indices
    coder.binariser.balance()
    coder.binariser.bias[before.unique()[::2]] = -100.0
    same = torch.equal(coder.encode(x).indices, before)
    assert not same, "select by `minus=self.offsets()`, or register it with ranked=False"


def test_a_variant_has_its_binarisers_entry() -> None:
    entry, plain = REGISTRY["binary-topk.cap_5"], REGISTRY["binary-topk"]
    assert (entry.module, entry.continuous, entry.options) == (plain.module, plain.continuous, plain.options)
    assert (entry.label, plain.label) == ("Binary TopK, cap 5", "Binary TopK")
    assert "binary-topk.cap_5" not in REGISTRY
    assert list(REGISTRY) == [name for name in REGISTRY if "." not in name]


@pytest.mark.parametrize("key", REGISTRY)
def test_what_is_registered_is_there(key: str) -> None:
    assert list(REGISTRY[key].faults()) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"code": "tpok:TopK"}, "there is no bsc/coders/binarisers/tpok.py"),
        ({"code": "topk:TpoK"}, "bsc/coders/binarisers/topk.py has no class `TpoK`"),
        ({"code": "topk"}, "`code` is `topk` and not `module:Class`"),
        ({"code": "gumbel:Gumbel", "options": {"tua": 0.5}}, "`__init__` of `Gumbel` takes no `tua`"),
    ],
)
def test_a_line_of_the_registry_that_is_wrong_is_told(changes: dict[str, Any], fault: str) -> None:
    assert list(replace(REGISTRY["topk"], **changes).faults()) == [fault]


def test_a_file_that_is_no_python_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("class Mine:\n    def (:\n")
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    (fault,) = Entry("mine:Mine", "Mine").faults()
    assert fault.startswith("bsc/coders/binarisers/mine.py cannot be read: ")
    assert fault.endswith(", line 2")


@pytest.mark.parametrize("name", ["tpok", "tpok.capped", "topk.", "topk.Capped", "topk.a-b", "topk.a.b", "topk./..", ""])
def test_what_is_no_name(name: str) -> None:
    assert not is_binariser(name)
    with pytest.raises(KeyError):
        REGISTRY[name]
    assert not re.fullmatch(paths.CONSTRAINTS["binariser"], name)


@pytest.mark.parametrize("name", [*REGISTRY, *(f"{name}.b_2" for name in REGISTRY)])
def test_a_path_says_which_coder_it_is_of(name: str) -> None:
    assert is_binariser(name)
    coder = CoderId("model-k16", "layers.9.mlp", "skip-transcoder", name, 32, 7)
    pattern = re.sub(r"\{(\w+)\}", lambda found: f"(?P<{found[1]}>{paths.CONSTRAINTS[found[1]]})", paths.CODER)
    found = re.fullmatch(pattern, str(coder))
    assert found is not None
    assert CoderId(**{**found.groupdict(), "k": int(found["k"]), "seed": int(found["seed"])}) == coder


def test_variants_come_after_their_binariser() -> None:
    names = ["gumbel", "topk.b", "binary-topk", "topk", "topk.a", "topk"]
    assert in_order(names) == ["topk", "topk.a", "topk.b", "binary-topk", "gumbel"]
    assert [kind_of(name) for name in ("topk.a", "gumbel")] == ["topk", "gumbel"]
