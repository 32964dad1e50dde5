from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from bsc.autointerp import firings
from bsc.autointerp.firings import FILE, FiringSorter, LatentCache
from bsc.errors import CorruptFile, UserError
from bsc.io import write_manifest


def _written(tmp_path: Path, batches: list[tuple[np.ndarray, np.ndarray, np.ndarray]], latents: int) -> LatentCache:
    sorter = FiringSorter(latents)
    for batch in batches:
        sorter.append(*batch)
    sorter.write(tmp_path / FILE)
    write_manifest(tmp_path, [FILE], {"rows": 10_000, "context": 50})
    return LatentCache.open(tmp_path)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 300), st.sampled_from([1, 5, 300, 70_000]), st.integers(1, 40), st.integers(1, 40)
)
def test_firings_come_back_by_latent_then_row(tmp_path_factory, seed, count, latents, chunk, block) -> None:
    generator = np.random.default_rng(seed)
    cells = generator.choice(200 * min(latents, 50), size=min(count, 200 * min(latents, 50)), replace=False)
    rows, owners = np.sort(cells // min(latents, 50)), generator.permutation(latents)[:50]
    owners = owners[np.sort(cells) % min(latents, 50)]
    values = generator.random(len(rows)).astype(np.float32) + 0.1
    batches = [(rows[cut], owners[cut], values[cut]) for cut in np.array_split(np.arange(len(rows)), 7)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(firings, "_CHUNK", chunk)
        patch.setattr(firings, "_BLOCK", block)
        cache = _written(tmp_path_factory.mktemp("cache"), batches, latents)
    order = np.lexsort((rows, owners))
    np.testing.assert_array_equal(cache.offsets, np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=latents))]))
    np.testing.assert_array_equal(cache.rows, rows[order])
    np.testing.assert_array_equal(cache.values, values[order])
    stored = load_file(cache.folder / FILE)
    assert {name: array.dtype.name for name, array in stored.items()} == {
        "offsets": "int64",
        "rows": "int64",
        "values": "float32",
    }
    np.testing.assert_array_equal(stored["rows"], cache.rows)
    np.testing.assert_array_equal(stored["values"], cache.values)


def test_one_latents_firings(tmp_path) -> None:
    cache = _written(tmp_path, [(np.array([3, 3, 8]), np.array([0, 2, 2]), np.array([0.5, 1.0, 2.0]))], 3)
    rows, values = cache.of(2)
    assert rows.tolist() == [3, 8]
    assert values.tolist() == [1.0, 2.0]
    assert len(cache.of(1)[0]) == 0
    assert cache.firings.tolist() == [1, 0, 2]


def test_an_altered_or_truncated_cache_is_refused(tmp_path) -> None:
    cache = _written(tmp_path, [(np.arange(9), np.arange(9) % 2, np.ones(9))], 2)
    path = cache.folder / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CorruptFile, match="SHA-256"):
        LatentCache.open(tmp_path)
    path.write_bytes(whole[:-20])
    with pytest.raises(CorruptFile, match="bytes where"):
        LatentCache.open(tmp_path)
    with pytest.raises(CorruptFile, match="no latent cache"):
        LatentCache.open(tmp_path, verify=False)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        LatentCache.open(tmp_path, verify=False)
