import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bsc.coders.binarisers.registry import REGISTRY
from bsc.coders.load import load_coder
from bsc.errors import UserError
from bsc.io import read_manifest, read_parquet
from bsc.stages import CoderSpec
from bsc.training.train import train

MakeSpec = Callable[..., CoderSpec]
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
