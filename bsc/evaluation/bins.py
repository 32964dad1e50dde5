"""Bins of latents by F1 with equal firing counts, for ablation (paper, Fig. 18). No torch in here."""

import numpy as np
import pandas as pd


def equal_firing_bins(latents: pd.DataFrame, bins: int) -> pd.DataFrame:
    """The latents by rising F1 with the `bin` of each, numbered from 0 without gaps.

    latents: columns latent, f1, firings (tokens on which it fired in the cache). Bins are cut so that each holds 1/`bins` of
    all firings as nearly as whole latents allow: a latent belongs to where the middle of its firings lies. One that alone has
    more than 1/`bins` is a bin of its own; empty bins are dropped; latents that never fire are left out. Ties in F1 go by id.
    """
    table = latents.loc[latents["firings"] > 0, ["latent", "f1", "firings"]]
    table = table.sort_values(["f1", "latent"], ignore_index=True)
    if table.empty:
        return table.assign(bin=pd.Series(dtype="int64"))
    firings = table["firings"].to_numpy(dtype=np.float64)
    share = firings.sum() / bins
    places = np.floor((firings.cumsum() - firings / 2) / share)
    alone = firings > share
    begins = np.append(True, (places[1:] != places[:-1]) | alone[1:] | alone[:-1])
    return table.assign(bin=begins.cumsum() - 1)


def bin_facts(members: pd.DataFrame) -> pd.DataFrame:
    """One row a bin: bin, latents, firings, and f1, the mean of its latents' F1 weighted by their firings."""
    weighted = members.assign(weighted=members["f1"] * members["firings"])
    facts = weighted.groupby("bin", as_index=False).agg(
        latents=("latent", "size"), firings=("firings", "sum"), weighted=("weighted", "sum")
    )
    return facts.assign(f1=facts["weighted"] / facts["firings"]).drop(columns="weighted")
