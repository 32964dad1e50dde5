from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bsc.activations.store import ActivationStore
from bsc.coders.binarisers.registry import REGISTRY
from bsc.coders.load import load_coder
from bsc.io import read_manifest, read_parquet
from bsc.stages import CoderSpec
from bsc.training.batches import Batches
from bsc.training.train import train
from bsc.training.trainer import Trainer

MakeSpec = Callable[..., CoderSpec]
CPU = torch.device("cpu")
RATES = {"gumbel": 3e-2, "reinmax": 3e-2}


@pytest.mark.parametrize("architecture", ["sae", "skip-transcoder"])
@pytest.mark.parametrize("binariser", REGISTRY)
def test_every_binariser_lowers_fvu(
    binariser: str, architecture: str, make_spec: MakeSpec, store_index: Path, tmp_path: Path
) -> None:
    rate = RATES.get(binariser, 1e-2)
    train(make_spec(binariser=binariser, architecture=architecture, learning_rate=rate), store_index, tmp_path)
    fvu = read_parquet(tmp_path / "log.parquet")["fvu"]
    assert len(fvu) == 20
    assert fvu.iloc[-3:].mean() < 0.9 * fvu.iloc[0]
    read_manifest(tmp_path)
    assert not (tmp_path / "checkpoint").exists()


def test_log(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    spec = make_spec(binariser="binary-topk")
    train(spec, store_index, tmp_path)
    log = read_parquet(tmp_path / "log.parquet")
    assert log["step"].tolist() == list(range(1, 21))
    assert log["tokens"].tolist() == list(range(128, 2561, 128))
    assert (log["l0"] <= spec.k).all()
    assert log["learning_rate"].max() == spec.learning_rate
    assert log["dead_fraction"].iloc[0] == 0
    assert (log["tokens_per_second"] > 0).all()
    assert log["fvu"].iloc[0] == pytest.approx(1, abs=1e-4), "W_dec = 0 and b_dec = mean(y) explain nothing"


def test_kept_at_unit_norm(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    """Continuous SAEs alone, with either optimiser; signum's averages too."""
    norms = {}
    for binariser in ("topk", "binary-topk"):
        for optimiser in ("adam", "signum"):
            output = tmp_path / f"{binariser}-{optimiser}"
            train(make_spec(architecture="sae", binariser=binariser, optimiser=optimiser), store_index, output)
            norms[binariser, optimiser] = load_coder(output).W_dec.norm(dim=1).cpu()
    for optimiser in ("adam", "signum"):
        torch.testing.assert_close(norms["topk", optimiser], torch.ones(64))
        assert (norms["binary-topk", optimiser] - 1).abs().mean() > 0.05


@pytest.mark.parametrize(("binariser", "orthogonal"), [("topk", True), ("binary-topk", False)])
def test_gradient_along_unit_rows_is_removed(binariser: str, orthogonal: bool, make_spec: MakeSpec, store_index: Path) -> None:
    batch = Batches(ActivationStore.open(store_index), 128, 1, "output", CPU).at(0)
    trainer = Trainer(make_spec(architecture="sae", binariser=binariser), batch, CPU)
    before = trainer.coder.W_dec.detach().clone()
    trainer.advance(batch)
    along = (trainer.coder.W_dec.grad * before).sum(1).abs().max()
    assert (along < 1e-6) == orthogonal


def test_first_batch_sets_the_biases(make_spec: MakeSpec, store_index: Path) -> None:
    batch = Batches(ActivationStore.open(store_index), 128, 1, "input", CPU).at(0)
    coder = Trainer(make_spec(), batch, CPU).coder
    torch.testing.assert_close(coder.b_dec, batch.y.mean(0))
    assert coder.preactivations(batch.x).dense.mean(0).abs().max() < 1e-5


def test_bfloat16_products_and_float32_weights(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    final = {}
    for dtype in ("float32", "bfloat16"):
        train(make_spec(dtype=dtype), store_index, tmp_path / dtype)
        final[dtype] = read_parquet(tmp_path / dtype / "log.parquet")["fvu"].iloc[-1]
        assert all(parameter.dtype is torch.float32 for parameter in load_coder(tmp_path / dtype).parameters())
    assert final["bfloat16"] != final["float32"]
    assert final["bfloat16"] == pytest.approx(final["float32"], rel=0.1)


def test_the_seed_changes_the_coder(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(make_spec(seed=seed, binariser="gumbel"), store_index, tmp_path / name)
        weights.append((tmp_path / name / "coder.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_global_random_state_plays_no_part(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train(make_spec(binariser="reinmax"), store_index, tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_auxk_revives(make_spec: MakeSpec, store_index: Path, tmp_path: Path) -> None:
    """With most latents dead from the start, AuxK leaves fewer of them dead."""
    dead = {}
    for auxk in (False, True):
        spec = make_spec(k=1, tokens=150 * 128, auxk=auxk, dead_after_tokens=256, learning_rate=3e-2)
        train(spec, store_index, tmp_path / str(auxk))
        dead[auxk] = read_parquet(tmp_path / str(auxk) / "log.parquet")["dead_fraction"].iloc[-1]
    assert dead[True] < dead[False]
