"""What a coder's latents are worth to the model, by how well they are explained (paper, Fig. 18).

Latents are cut into bins of F1 with equal firing counts. In the spliced model each bin's latents are set to 0 in turn; changes
are against the splice with all of them. The layers below the hookpoint run once a batch: ablation subtracts Σ z_i W_dec[i] of
the bin from the hidden states above the hooked layer, from where the rest of the model goes on.

Where latents were sampled, bins are of the sample, and sampling weights play no part: what is ablated are these latents and no
others, and what that changes goes with their own firings and F1.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bsc.coders.code import Code
from bsc.coders.coder import SparseCoder
from bsc.coders.decode import combine
from bsc.coders.load import load_coder
from bsc.device import device, resolve_dtype
from bsc.evaluation.bins import bin_facts, equal_firing_bins
from bsc.evaluation.bootstrap import Interval, bootstrap_ratio
from bsc.evaluation.language import Contexts, load, score_hidden
from bsc.evaluation.metrics import by_document, counts
from bsc.evaluation.replacement import Recorder, from_coder
from bsc.io import read_manifest, read_parquet, write_manifest, write_parquet
from bsc.models.halves import Halves, States
from bsc.models.head import PROBE
from bsc.models.hooks import splice
from bsc.paths import layer
from bsc.progress import Progress, job_label
from bsc.stages import AblationSpec, EvaluationSpec

BINS, MEMBERS, SEQUENCES = "bins.parquet", "members.parquet", "sequences.parquet"
CHANGES = ("ce_change", "accuracy_change", "fvu_change")
WHOLE = -1
"""The `bin` of the splice in which nothing is ablated."""


def ablate(spec: AblationSpec, model: Path, tokens: Path, coder: Path, scores: Path, output: Path) -> None:
    """Write `bins.parquet`, `members.parquet` (latent, f1, firings, bin) and `sequences.parquet`.

    bins: bin, latents, firings, f1 (firing-weighted mean), and `ce_change` (nats/token), `accuracy_change` and `fvu_change`
    with `_low` and `_high`, bootstrap 95% intervals over documents, ablated and unablated resampled together. sequences: bin
    (-1: nothing ablated), sequence, document, tokens, ce, accuracy, squared_error, squared_deviation. Position 0 keeps the
    module's own output. Where no latent was scored there is no bin. Raises UserError when the model cannot be cut at the
    hookpoint.
    """
    members = equal_firing_bins(_scored(spec, scores), spec.bins)
    language_model, contexts = load(spec.evaluation, model, tokens)
    (hookpoint,) = spec.evaluation.hookpoints
    halves = Halves(language_model, layer(hookpoint))
    halves.check(contexts.tokens[:1, :PROBE], model, "ablation")
    lower = _Lower(halves, hookpoint, load_coder(coder).to(device()), spec.evaluation)
    table = _measure(lower, members, contexts, spec.evaluation.batch_sequences, job_label("ablation", output))
    write_parquet(output / SEQUENCES, table)
    write_parquet(output / MEMBERS, members)
    write_parquet(output / BINS, bin_facts(members).merge(_changes(table, spec.evaluation), on="bin", validate="1:1"))
    facts = {"scorer": spec.scorer, "bins": members["bin"].nunique(), "latents": len(members)}
    shares = {"firings": int(members["firings"].sum()), **counts(table[table["bin"] == WHOLE])}
    write_manifest(output, [BINS, MEMBERS, SEQUENCES], {**facts, **shares})


def _scored(spec: AblationSpec, scores: Path) -> pd.DataFrame:
    read_manifest(scores)
    table = read_parquet(scores / "scores.parquet")
    return table[(table["scorer"] == spec.scorer) & (table["control"] == "none")]


class _Batch(NamedTuple):
    """A spliced batch. code: of its rows but position 0, flattened; residual: y - ŷ of them."""

    tokens: Int[Tensor, "batch position"]
    states: States
    code: Code
    residual: Float[Tensor, "batch rows d"]


class _Lower:
    """The model up to the hooked layer, with a coder spliced in."""

    def __init__(self, halves: Halves, hookpoint: str, coder: SparseCoder, spec: EvaluationSpec) -> None:
        self.halves, self.coder, self._hookpoint = halves, coder, hookpoint
        self._reconstruct = from_coder(coder, bfloat16=resolve_dtype(spec.dtype, device()) == torch.bfloat16)
        self.recorder = Recorder(self._kept, coder.latents)
        self._last: tuple[Tensor, Code] | None = None

    def _kept(self, x: Tensor, y: Tensor) -> tuple[Tensor, Code | None]:
        y_hat, code = self._reconstruct(x, y)
        if code is not None:
            self._last = (y - y_hat, code)
        return y_hat, code

    def run(self, tokens: Int[Tensor, "batch position"]) -> _Batch:
        """One batch, up to and with the hooked layer."""
        with splice(self.halves.model, {self._hookpoint: self.recorder}):
            states = self.halves.below(tokens)
        if self._last is None:
            raise AssertionError("the hooked module was not run")
        residual, code = self._last
        return _Batch(tokens, states, code, residual.view(len(tokens), -1, residual.shape[-1]))


def without(batch: _Batch, kept: Int[Tensor, " latents"], number: int, W_dec: Float[Tensor, "latents d"]) -> Tensor:
    """Σ z_i W_dec[i] over the latents i of bin `number`, for each row: what ablating it takes away. kept: each latent's bin."""
    code = batch.code
    mine = kept == number
    values = code.values * (mine if code.indices is None else mine[code.indices])
    return combine(Code(code.indices, values), W_dec).view_as(batch.residual)


@torch.inference_mode()
def _measure(lower: _Lower, members: pd.DataFrame, contexts: Contexts, size: int, label: str) -> pd.DataFrame:
    """One row for each bin, and for none, and each sequence."""
    bins = members["bin"].nunique()
    place = torch.full((lower.coder.latents,), WHOLE, dtype=torch.long)
    latents, numbers = (torch.tensor(members[name].tolist(), dtype=torch.long) for name in ("latent", "bin"))
    place[latents] = numbers
    place = place.to(device())
    rows: list[dict[str, float]] = []
    with Progress(label, contexts.tokens.numel() * (bins + 1), "tokens") as progress:
        for first in range(0, len(contexts.tokens), size):
            batch = lower.run(contexts.tokens[first : first + size].long().to(device()))
            for number in range(WHOLE, bins):
                rows += _ablated(lower, batch, place, number, first)
                progress.advance(batch.tokens.numel())
    table = pd.DataFrame(rows)
    table.insert(2, "document", [contexts.documents[number] for number in table["sequence"]])
    sums = lower.recorder.sequences()["squared_deviation"]
    return table.assign(squared_deviation=table["sequence"].map(sums)).sort_values(["bin", "sequence"], ignore_index=True)


def _ablated(lower: _Lower, batch: _Batch, place: Tensor, number: int, first: int) -> Iterator[dict[str, float]]:
    states, residual = batch.states, batch.residual
    if number != WHOLE:
        taken = without(batch, place, number, lower.coder.W_dec)
        states = torch.cat([states[:, :1], (states[:, 1:].float() - taken).to(states)], dim=1)
        residual = residual + taken
    errors = residual.double().square().sum(dim=(1, 2)).tolist()
    found = score_hidden(lower.halves.model, lower.halves.above(states), batch.tokens)
    for offset, ((ce, accuracy), error) in enumerate(zip(found, errors, strict=True)):
        which = {"bin": number, "sequence": first + offset, "tokens": batch.tokens.shape[1] - 1}
        yield {**which, "ce": ce, "accuracy": accuracy, "squared_error": error}


def _changes(table: pd.DataFrame, spec: EvaluationSpec) -> pd.DataFrame:
    """One row a bin: the changes with their intervals. The mean of y is held at its value over all sequences, as in `fvu`."""
    whole = table[table["bin"] == WHOLE].set_index("sequence")
    rows = []
    for number, mine in table[table["bin"] != WHOLE].groupby("bin"):
        mine = mine.set_index("sequence")
        tokens, deviation = whole["tokens"], whole["squared_deviation"]
        changes = (
            ((mine["ce"] - whole["ce"]) * tokens, tokens),
            ((mine["accuracy"] - whole["accuracy"]) * tokens, tokens),
            (mine["squared_error"] - whole["squared_error"], deviation),
        )
        row: dict[str, object] = {"bin": number}
        for name, (above, below) in zip(CHANGES, changes, strict=True):
            row |= _ends(name, bootstrap_ratio(*by_document(whole, above, below), resamples=spec.resamples, seed=spec.seed))
        rows.append(row)
    columns = [f"{name}{end}" for name in CHANGES for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["bin", *columns]).astype({"bin": "int64", **dict.fromkeys(columns, "float64")})


def _ends(name: str, found: Interval) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
