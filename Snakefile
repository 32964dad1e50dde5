"""Binary sparse coding: from the config to the figures. `snakemake -c2` builds the demo."""

from snakemake.utils import min_version

min_version("9.0")

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/tokens.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/tuning.smk"
include: "workflow/rules/coders.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/embedding.smk"
include: "workflow/rules/autointerp.smk"
include: "workflow/rules/probing.smk"
include: "workflow/rules/llm.smk"
include: "workflow/rules/figures.smk"


rule all:
    """Every figure and table, and what they were made from: a shard or a coder that was deleted comes back."""
    default_target: True
    input:
        figure_files(),
        at(paths.GALLERY),
        shard_files(),
        [at(paths.CODERS, coder, file="coder.safetensors") for coder in plan.config.coder_ids],
        [at(paths.EVALUATION, coder, file="metrics.json") for coder in plan.config.coder_ids],


rule coders:
    """Every trained coder, and nothing after it."""
    input:
        [at(paths.CODERS, coder, file="manifest.json") for coder in plan.config.coder_ids],


rule scores:
    """Every autointerp score."""
    input:
        [
            at(paths.interpreted(paths.SCORES, explainer), coder, variant=variant, file="manifest.json")
            for explainer in plan.explainers
            for coder in plan.config.coder_ids
            for variant in plan.variants(coder)
        ],
