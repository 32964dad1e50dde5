"""Names of binarisers and of their variants."""

import re

import pytest

from bsc import paths
from bsc.coders.binarisers.registry import REGISTRY, in_order, is_binariser, kind_of
from bsc.paths import CoderId


def test_a_variant_has_its_binarisers_entry() -> None:
    entry, plain = REGISTRY["binary-topk.cap_5"], REGISTRY["binary-topk"]
    assert (entry.module, entry.continuous, entry.options) == (plain.module, plain.continuous, plain.options)
    assert (entry.label, plain.label) == ("Binary TopK, cap 5", "Binary TopK")
    assert "binary-topk.cap_5" not in REGISTRY
    assert list(REGISTRY) == [name for name in REGISTRY if "." not in name]


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
