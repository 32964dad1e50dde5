"""A results folder as the stages write it, with made-up but plausible numbers, and specs of figures that read it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bsc import paths
from bsc.autointerp.explain import explain
from bsc.autointerp.firings import FiringSorter
from bsc.autointerp.score import score
from bsc.coders.binarisers.registry import REGISTRY, in_order, kind_of
from bsc.config import Figures
from bsc.figures.registry import FIGURES
from bsc.figures.results import ABLATED, LINEAR
from bsc.io import write_json, write_manifest, write_parquet, write_tensors, write_text
from bsc.paths import JOINT, NGRAM, VARIANTS, CoderId
from bsc.stages import ExplainSpec, FigureSpec, ScoreSpec, WindowsSpec, coder_blocks

BINARISERS = ("topk", "binary-topk", "binary-groupmax", "gumbel")
STYLE = Figures(dpi=50).model_dump()
EXPLAINERS = (NGRAM, "some-llm")
SWEEP = {"optimiser": "adam", "tokens": 153_600, "training_tokens": 409_600}
TOKENS, LATENTS = 130_560, 4_608
DOCUMENTS = [100 + 3 * sequence // 4 for sequence in range(64)]
"""The document of each evaluated sequence: every third document has two."""


def grid(
    hookpoints: Iterable[str] = ("layers.9.mlp",),
    binarisers: Iterable[str] = BINARISERS,
    ks: Iterable[int] = (16, 32),
    seeds: Iterable[int] = (1, 2),
    architectures: Iterable[str] = ("skip-transcoder",),
    model: str = "smollm2-135m",
) -> list[CoderId]:
    """Coders; only `topk` and `binary-topk` have more seeds than the first."""
    return [
        CoderId(model, hookpoint, architecture, binariser, k, seed)
        for hookpoint in hookpoints
        for architecture in architectures
        for binariser in binarisers
        for k in ks
        for seed in (list(seeds) if binariser in ("topk", "binary-topk") else list(seeds)[:1])
    ]


def figure_spec(
    name: str, coders: list[CoderId], variants: tuple[str, ...] = ("trained",), explainer: str = NGRAM, **style: Any
) -> FigureSpec:
    """The spec that the plan would make for these coders."""
    shown = FIGURES[name].select([coder for coder in coders if coder.hookpoint != JOINT])
    joint = [coder for coder in coders if coder.hookpoint == JOINT and FIGURES[name].joint]
    labels = {name: REGISTRY[name].label for name in in_order(coder.binariser for coder in shown)}
    return FigureSpec(
        name=name,
        coders=coder_blocks(shown + joint),
        labels=labels,
        variants={
            name: [one for one in VARIANTS if one in variants and (one != "binarised" or REGISTRY[name].continuous)]
            for name in labels
        },
        style={**STYLE, **style},
        resamples=200,
        seed=0,
        explainers=list(EXPLAINERS) if FIGURES[name].compares else [explainer],
        sweep=SWEEP if "choice" in FIGURES[name].needs else None,
    )


def band(value: float | None, width: float = 0.0) -> dict[str, float | None]:
    """A value with an interval, as the stages write it."""
    return {end: None if value is None else value + sign * width for end, sign in (("value", 0), ("low", -1), ("high", 1))}


def metrics_of(coder: CoderId) -> dict[str, Any]:
    """What `bsc evaluate` writes of a coder; a function of the coder alone, so that tests can compute what is to be shown."""
    rank = list(REGISTRY).index(kind_of(coder.binariser))
    depth = 1.0 if coder.hookpoint == JOINT else 0.05 * (1 + paths.layer(coder.hookpoint) / 30)
    rise = depth * (1 + 0.2 * rank) * (16 / coder.k) ** 0.4 + 0.002 * coder.seed
    metrics = {
        "ce_increase": band(rise, 0.1 * rise),
        "relative_ce_increase": band(rise / 2.9, 0.01 * rise),
        "accuracy_decrease": band(rise / 5, 0.02 * rise),
    }
    if coder.hookpoint != JOINT:
        surge = 0.0002 if REGISTRY[coder.binariser].continuous else 0.005
        metrics |= {
            "fvu": band(0.2 + rise, 0.01),
            "variance_left_out": 0.4 + paths.layer(coder.hookpoint) / 100,
            "l0": band(coder.k - 0.5, 0.1),
            "dead_fraction": band(0.1, 0.01),
            "ultra_high_fraction": band(surge, surge / 3),
            "ultra_high_share": band(30 * surge, surge),
        }
    else:
        metrics |= dict.fromkeys(("fvu", "variance_left_out", "l0", "dead_fraction", "ultra_high_fraction", "ultra_high_share"))
    counts = {"sequences": 64, "documents": 48, "tokens": 16_320}
    return {**counts, "ce": 2.9 + rise, **metrics, "baseline": {"ce": 2.9, "accuracy": 0.41}}


def summary_of(coder: CoderId, variant: str, explainer: str = NGRAM, *, scored: bool = True) -> dict[str, Any]:
    """What `bsc score` sums up."""
    if not scored:
        beside = dict.fromkeys(("dense_as_zero", "dense_as_one", "effective_sample_size"))
        empty = {"unweighted": band(None), "weighted": {**band(None), **beside}, "unparsed_share": None}
        found = {"none": empty, "shuffled": empty}
        counts = {"scored": 0, "too_rare": LATENTS, "too_dense": 0, "not_sampled": 0}
        return {
            "scorers": {"detection": found, "fuzzing": found},
            "latents": counts,
            "unexplained": 0,
            "firing_shares": {"scored": 0.0, "too_rare": 1.0, "too_dense": 0.0, "not_sampled": 0.0},
        }
    binary = not REGISTRY[coder.binariser].continuous
    base = {"trained": 0.74 + 0.03 * binary, "random": 0.58, "binarised": 0.7}[variant] - 0.0004 * coder.k + 0.01 * coder.seed
    base += 0.0 if explainer == NGRAM else 0.08
    controls = {"none": base, "shuffled": 0.36 + 0.02 * binary + 0.004 * coder.seed}
    return {
        "scorers": {
            scorer: {
                control: {
                    "unweighted": band(value + lift, 0.02),
                    "weighted": {
                        **band(value + lift - 0.05 * binary, 0.04),
                        "dense_as_zero": 0.7 * (value + lift),
                        "dense_as_one": 0.7 * (value + lift) + 0.3 * binary,
                        "effective_sample_size": 30.5 + coder.k,
                    },
                    "unparsed_share": 0.0 if explainer == NGRAM else 0.001 * coder.k,
                }
                for control, value in controls.items()
            }
            for scorer, lift in (("detection", 0.05), ("fuzzing", 0.0))
        },
        "unexplained": 0 if explainer == NGRAM else coder.k // 16,
        "latents": {"scored": 200 - coder.k, "too_rare": 3_000, "too_dense": 12, "not_sampled": 1_396 + coder.k},
        "firing_shares": {"scored": 0.3, "too_rare": 0.1, "too_dense": 0.3, "not_sampled": 0.3},
    }


def counts_of(coder: CoderId) -> pd.DataFrame:
    """The counts of a latent cache: log-normal rates, some dead latents, and a surge above 10% in binary coders."""
    generator = np.random.default_rng([coder.k, coder.seed, list(REGISTRY).index(kind_of(coder.binariser))])
    rates = np.exp(generator.normal(np.log(coder.k / LATENTS / 3), 1.4, LATENTS))
    rates[: LATENTS // 20] = 0
    surge = 1 if REGISTRY[coder.binariser].continuous else 14 + coder.k // 4
    rates[-surge:] = generator.uniform(0.12, 0.6, surge)
    firings = np.floor(np.minimum(rates, 0.9) * TOKENS).astype(np.int64)
    return pd.DataFrame({"latent": np.arange(LATENTS), "firings": firings, "rate": firings / TOKENS})


def sequences_of(coder: CoderId) -> pd.DataFrame:
    """What `bsc evaluate` writes of 64 sequences: hard ones are hard for every coder, and the coder's rise is on top of that.

    Without the noise, cross-entropy and FVU are those of `metrics_of`.
    """
    own = np.random.default_rng([coder.k, coder.seed, list(REGISTRY).index(kind_of(coder.binariser))])
    hard, rise = baseline_sequences()["ce"].to_numpy(), metrics_of(coder)["ce"] - 2.9
    deviation = 1_000.0 * hard
    return pd.DataFrame(
        {
            "sequence": range(64),
            "document": DOCUMENTS,
            "tokens": 255,
            "ce": hard + rise + own.normal(0, 0.002, 64),
            "accuracy": 0.41 - rise / 5 + own.normal(0, 0.001, 64),
            "squared_error": deviation * (0.2 + rise) * own.normal(1, 0.01, 64),
            "squared_deviation": deviation,
        }
    )


def baseline_sequences() -> pd.DataFrame:
    """What `bsc baseline` writes: sequences that differ a lot."""
    cross_entropies = np.random.default_rng(0).normal(2.9, 0.4, 64)
    columns = {"sequence": range(64), "document": DOCUMENTS, "tokens": 255}
    return pd.DataFrame({**columns, "ce": cross_entropies, "accuracy": 0.41})


def latent_scores_of(coder: CoderId, scored: int = 150) -> pd.DataFrame:
    """What `bsc score` writes of each scored latent: binary coders' F1 are 0.1 higher, but fall with the firing rate."""
    own = np.random.default_rng([7, coder.k, coder.seed, list(REGISTRY).index(kind_of(coder.binariser))])
    counts = counts_of(coder)
    latents = counts[counts["firings"] > 200]["latent"].to_numpy()[:scored]
    firings, binary = counts["firings"].to_numpy()[latents], not REGISTRY[coder.binariser].continuous
    rows = []
    for scorer in ("detection", "fuzzing"):
        for control in ("none", "shuffled"):
            mean = 0.65 + 0.1 * binary - 0.35 * binary * (firings > np.quantile(firings, 0.8))
            hits = own.binomial(50, np.full_like(mean, 0.1) if control == "shuffled" else mean)
            misses = own.binomial(50, 0.05, len(latents))
            f1 = np.where(hits > 0, 2 * hits / (50 + hits + misses), 0.0)
            table = {
                "latent": latents,
                "scorer": scorer,
                "control": control,
                "true_positive": hits,
                "false_negative": 50 - hits,
            }
            rows.append(
                pd.DataFrame(
                    {
                        **table,
                        "false_positive": misses,
                        "true_negative": 50 - misses,
                        "f1": f1,
                        "auroc": np.nan,
                        "firings": firings,
                        "sampling_weight": 1.0,
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def log_of(coder: CoderId, steps: int = 150) -> pd.DataFrame:
    """A training log: FVU falls to what the coder ends with; the steps of larger k take longer."""
    step = np.arange(1, steps + 1)
    fvu = 0.2 + 0.03 * list(REGISTRY).index(kind_of(coder.binariser)) + np.exp(-step / 20)
    rates = {"tokens_per_second": 1e6 / (50 + coder.k), "learning_rate": 1e-3, "dead_fraction": np.minimum(step / 1000, 0.1)}
    return pd.DataFrame({"step": step, "tokens": 1024 * step, "fvu": fvu, **rates})


def write_results(
    results: Path, coders: list[CoderId], variants: tuple[str, ...] = ("trained",), *, scored: bool = True
) -> None:
    """Everything that figures read of these coders, but for the text panels."""
    write_runtime(results, [coder for coder in coders if coder.hookpoint != JOINT])
    ablated: dict[str, dict[str, Any]] = {}
    for coder in coders:
        write_json(results / coder.at(paths.EVALUATION) / "metrics.json", metrics_of(coder))
        found = metrics_of(coder) | {"l0": None, "ce_increase": band(1.0, 0.1)}
        sites = ablated.setdefault(coder.model, {})
        sites[coder.hookpoint] = dict.fromkeys((*ABLATED, LINEAR), found)
        write_json(results / paths.REFERENCES.format(model=coder.model) / "metrics.json", sites)
        if coder.hookpoint == JOINT:
            continue
        write_parquet(results / coder.at(paths.EVALUATION) / "sequences.parquet", sequences_of(coder))
        write_parquet(results / coder.at(paths.EVALUATION) / "latents.parquet", counts_of(coder))
        write_parquet(results / coder.at(paths.BASELINE) / "sequences.parquet", baseline_sequences())
        write_parquet(results / coder.at(paths.CODERS) / "log.parquet", log_of(coder))
        options = {"bits": int(coder.binariser.partition(".b")[2])} if kind_of(coder.binariser) == "nbit" else {}
        trained = {"latents": LATENTS, "batch_tokens": 1024, "dead_after_tokens": 100_000, "options": options}
        write_json(results / coder.at(paths.CODERS) / "config.json", {"spec": trained})
        own = latent_scores_of(coder) if scored else latent_scores_of(coder).iloc[:0]
        write_parquet(results / coder.at(paths.LATENTS, variant="trained") / "counts.parquet", counts_of(coder))
        write_ablation(results / coder.at(paths.ABLATION), coder, scored=scored)
        write_probes(results / coder.at(paths.PROBES), coder)
        for variant in variants:
            write_parquet(results / coder.at(paths.SCORES, variant=variant) / "scores.parquet", own)
            for explainer in EXPLAINERS:
                folder = results / coder.at(paths.interpreted(paths.SCORES, explainer), variant=variant)
                write_json(folder / "summary.json", summary_of(coder, variant, explainer, scored=scored))


def steps_of(model: str, coders: list[CoderId]) -> pd.DataFrame:
    """Times of steps: longer with k, batch and latents."""
    base = {"k": 32, "batch_tokens": 1_024, "latents": LATENTS}
    rows = [
        {"varied": varied, "architecture": coder.architecture, "binariser": coder.binariser, "width": 576, **base, varied: size}
        for coder in FIGURES["runtime"].select(coders)
        if coder.model == model
        for varied in base
        for size in (base[varied] // 2, base[varied])
    ]
    table = pd.DataFrame(rows)
    table["milliseconds"] = table["k"] + table["batch_tokens"] / 100 + table["latents"] / 200
    return table.assign(fastest=table["milliseconds"] - 5, slowest=table["milliseconds"] + 9, steps=6)


def write_runtime(results: Path, coders: list[CoderId]) -> None:
    """What the figure reads of `bsc runtime`."""
    for model in {coder.model for coder in coders}:
        folder = results / paths.RUNTIME.format(model=model)
        write_parquet(folder / "steps.parquet", steps_of(model, coders))
        write_manifest(folder, ["steps.parquet"], {"machine": "Some CPU", "threads": 2})


def bins_of(coder: CoderId, bins: int = 12) -> pd.DataFrame:
    """Bins of an ablation: the better a bin is explained, the more it is worth."""
    f1 = np.linspace(0.05, 0.98, bins)
    changes = {"ce_change": 0.01 * f1 / coder.k, "accuracy_change": -0.002 * f1, "fvu_change": 0.02 * f1}
    ends = {
        f"{name}{end}": values * by for name, values in changes.items() for end, by in (("", 1), ("_low", 0.7), ("_high", 1.3))
    }
    return pd.DataFrame({"bin": range(bins), "latents": 10, "firings": 1_000, "f1": f1, **ends})


def write_ablation(folder: Path, coder: CoderId, *, scored: bool) -> None:
    """What the figure reads of `bsc ablation`."""
    bins = bins_of(coder).iloc[: None if scored else 0]
    write_parquet(folder / "bins.parquet", bins)
    facts = {"scorer": "fuzzing", "sequences": 16, "documents": 12, "firings": int(bins["firings"].sum())}
    write_manifest(folder, ["bins.parquet"], facts)


def probes_of(coder: CoderId) -> pd.DataFrame:
    """Probes: five latents tell more than one, binary ones a little less, and all dimensions tell the most."""
    rank = list(REGISTRY).index(kind_of(coder.binariser))
    rows = []
    for source in ("latents", "raw"):
        for pooling in ("max", "mean"):
            for count in (1, 2, 5, *([0] if source == "raw" else [])):
                value = 0.95 if count == 0 else 0.6 + 0.04 * count - 0.01 * rank * (source == "latents")
                less = -0.01 * rank if source == "latents" else np.nan
                rows += [
                    {
                        **{"source": source, "pooling": pooling, "count": count, "label": label, "features": [1]},
                        **{f"auroc{end}": value + by for end, by in (("", 0), ("_low", -0.03), ("_high", 0.03))},
                        **{f"auroc_less_raw{end}": less + by for end, by in (("", 0), ("_low", -0.01), ("_high", 0.01))},
                    }
                    for label in ("code", "mean over labels")
                ]
    return pd.DataFrame(rows)


def probe_scores_of(coder: CoderId) -> pd.DataFrame:
    """Scores of 27 test documents: noise of the document's and some of the coder's; more latents tell the label better."""
    rank = list(REGISTRY).index(kind_of(coder.binariser))
    shared, own = np.random.default_rng(7).normal(size=27), np.random.default_rng([8, rank, coder.k]).normal(size=27)
    positive = np.arange(27) % 3 == 0
    tables = [
        pd.DataFrame(
            {
                **{"pooling": pooling, "count": count, "label": "code", "document": np.arange(0, 81, 3), "positive": positive},
                "score": shared + 0.3 * own + 0.3 * count * positive,
            }
        )
        for pooling in ("max", "mean")
        for count in (1, 2, 5)
    ]
    return pd.concat(tables, ignore_index=True)


def write_probes(folder: Path, coder: CoderId) -> None:
    """What the figure reads of `bsc probe`."""
    write_parquet(folder / "scores.parquet", probe_scores_of(coder))
    write_parquet(folder / "probes.parquet", probes_of(coder))
    write_json(folder / "metrics.json", {"documents": 90, "test_documents": 27, "labels": 2})


WORDS = (
    *(" the", " of", " run", "ing", " model", ".", ",", " a", " tensor", " is", " to", "=", " self", "(", ")", " in", " and"),
    *(
        "\n",
        "\t",
        "$x^{2}$",
        "$",
        "\\frac{",
        "%_&#~",
        "\u202e",
        "e\u0301",
        "漢字",
        "العربية",
        "\U0001f600",
        "�",
        "<b>",
        "\x00\x1b[31m",
    ),
    "x" * 150,
)
CONTEXT, WINDOW = 64, 32


def write_text_panels(results: Path, coder: CoderId, *, contexts: int = 160, scored: bool = True, silent: bool = False) -> None:
    """What the text panels of one coder read, by the stages that make it. Words are drawn from `WORDS`, hostile ones too.

    Latent 0 fires on " run", latent 1 on "ing" after " run" and now and then elsewhere, latent 2 nearly everywhere (dense), and
    latent 3 never; silent: none ever fires. scored: whether they fire in enough windows to be scored.
    """
    generator = np.random.default_rng(11)
    tokens = generator.choice(len(WORDS), p=_weights(), size=(contexts, CONTEXT)).astype(np.int32)
    documents = np.repeat(np.arange(contexts // 2, dtype=np.int32), 2 * CONTEXT).reshape(contexts, CONTEXT)
    folder = results / coder.at(paths.TOKENS)
    write_tensors(folder / "interpretation.safetensors", {"tokens": tokens, "documents": documents})
    splits = {"interpretation": {"contexts": contexts, "documents": contexts // 2}}
    facts = {"context": CONTEXT, "bos": None, "separator": None, "splits": splits}
    write_manifest(folder, ["interpretation.safetensors"], facts)
    _write_tokenizer(results / coder.at(paths.MODEL))
    latents = results / coder.at(paths.LATENTS, variant="trained")
    _write_cache(latents, tokens, generator, binary=not REGISTRY[coder.binariser].continuous, silent=silent)
    windows = window_spec(scored=scored)
    explainer = {"kind": "ngram", "length": 2, "patterns": 8, "precision": 0.5}
    explanations, scores = (results / coder.at(pattern, variant="trained") for pattern in (paths.EXPLANATIONS, paths.SCORES))
    explain(ExplainSpec(windows=windows, explainer=explainer), latents, folder, results / coder.at(paths.MODEL), explanations)
    judged = ScoreSpec(
        windows=windows,
        scorers=["detection", "fuzzing"],
        marks="fair",
        windows_a_prompt=5,
        shuffled=True,
        explainer=explainer,
        resamples=100,
    )
    score(judged, latents, explanations, folder, scores)


def window_spec(*, scored: bool = True) -> WindowsSpec:
    """How the windows of the text panels are drawn; scored: whether 40 firing ones are enough."""
    return WindowsSpec(
        window=WINDOW,
        minimum_windows=40 if scored else 10**6,
        explanation_windows=20,
        test_firing=20,
        test_silent=20,
        latents=None,
        mark_above=0.3,
        seed=0,
    )


def _weights() -> np.ndarray:
    weights = np.ones(len(WORDS))
    weights[:17], weights[-1] = 6, 0.2
    return weights / weights.sum()


def _write_tokenizer(folder: Path) -> None:
    vocabulary = {word: token for token, word in enumerate(WORDS)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": ","}
    write_text(folder / "tokenizer.json", json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    write_manifest(folder, ["tokenizer.json"], {})


def _write_cache(folder: Path, tokens: np.ndarray, generator: np.random.Generator, *, binary: bool, silent: bool) -> None:
    run, ing = tokens == WORDS.index(" run"), tokens == WORDS.index("ing")
    after = ing & np.roll(run, 1, axis=1)
    chance = generator.random((3, *tokens.shape))
    fires = np.stack([run & (chance[0] < 0.9), after | (ing & (chance[1] < 0.4)), chance[2] < 0.4, np.zeros_like(run)])
    fires[:, :, 0] = False
    values = np.ones(fires.shape) if binary else generator.gamma(3.0, 0.4, fires.shape)
    where = np.argwhere(np.moveaxis(fires & (not silent), 0, -1))
    sorter = FiringSorter(len(fires))
    if len(where):
        row, latent = where[:, 0] * CONTEXT + where[:, 1], where[:, 2]
        sorter.append(row, latent, values[latent, where[:, 0], where[:, 1]])
    sorter.write(folder / "latents.safetensors")
    facts = {"rows": tokens.size, "usable_rows": tokens.size - len(tokens), "context": CONTEXT, "latents": len(fires)}
    write_manifest(folder, ["latents.safetensors"], facts)


def write_choice(results: Path, coder: CoderId, *, at_edge: bool = False, highest: float | None = None) -> None:
    """What `bsc choose` writes of a sweep of three rates, the middle one best. highest: the last one's FVU, or None."""
    found = {0.001: 0.2 if at_edge else 0.5, 0.01: 0.25, 0.1: highest}
    curve = [{"learning_rate": rate, "fvu": fvu} for rate, fvu in found.items()]
    choice = {"learning_rate": 0.001 if at_edge else 0.01, "at_edge": at_edge, "curve": curve}
    write_json(results / coder.at(paths.CHOICE) / "choice.json", choice)
