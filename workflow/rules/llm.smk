import json

# How language models are reached. It stands in the shell line and not in `params`: none of it changes an answer, so changing
# it reruns nothing.
llm_settings = json.dumps(plan.llm_settings)


def llm_model(llm):
    """The manifest of the model that runs in the process, where it is one of the config's `models`."""
    name = plan.config.llms[llm].transformers
    return [at(paths.MODEL, file="manifest.json", model=name)] if name in plan.config.models else []


def llm_gpus(llm):
    """One GPU where the job itself runs the model."""
    return 0 if plan.config.llms[llm].endpoint else 1


rule explain_llm:
    """Explain a coder's latents by a language model."""
    input:
        model=at(paths.MODEL, file="manifest.json"),
        latents=at(paths.LATENTS, file="manifest.json"),
        tokens=at(paths.TOKENS, file="interpretation.safetensors"),
        llm=lambda w: llm_model(w.llm),
    output:
        [
            at(paths.interpreted(paths.EXPLANATIONS, "{llm}"), file=file)
            for file in ("manifest.json", "explanations.parquet")
        ],
    log:
        log_of(paths.interpreted(paths.EXPLANATIONS, "{llm}")),
    benchmark:
        benchmark_of(paths.interpreted(paths.EXPLANATIONS, "{llm}"))
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(8_000),
        runtime=grown(24 * 60),
        gpus=lambda w: llm_gpus(w.llm),
    params:
        **spec(lambda w: plan.explanations(coder_of(w), w.variant, w.llm)),
        latents=folder("latents"),
        tokens=folder("tokens"),
        model=folder("model"),
        output=folder("output"),
    shell:
        "python -m bsc explain --spec {params.spec:q} --latents {params.latents:q} --tokens {params.tokens:q}"
        " --model {params.model:q} --output {params.output:q} --log {log:q}"
        " --llms {llm_settings:q} --answers {plan.answers:q}"


rule score_llm:
    """Score a language model's explanations on windows of the test half, by a language model."""
    input:
        model=at(paths.MODEL, file="manifest.json"),
        explanations=at(paths.interpreted(paths.EXPLANATIONS, "{llm}"), file="manifest.json"),
        latents=at(paths.LATENTS, file="manifest.json"),
        tokens=at(paths.TOKENS, file="interpretation.safetensors"),
        llm=lambda w: llm_model(plan.judge(w.llm)),
    output:
        [
            at(paths.interpreted(paths.SCORES, "{llm}"), file=file)
            for file in (
                "manifest.json",
                "scores.parquet",
                "answers.parquet",
                "summary.json",
            )
        ],
    log:
        log_of(paths.interpreted(paths.SCORES, "{llm}")),
    benchmark:
        benchmark_of(paths.interpreted(paths.SCORES, "{llm}"))
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(8_000),
        runtime=grown(24 * 60),
        gpus=lambda w: llm_gpus(plan.judge(w.llm)),
    params:
        **spec(lambda w: plan.scores(coder_of(w), w.variant, w.llm)),
        latents=folder("latents"),
        explanations=folder("explanations"),
        tokens=folder("tokens"),
        model=folder("model"),
        output=folder("output"),
    shell:
        "python -m bsc score --spec {params.spec:q} --latents {params.latents:q} --explanations {params.explanations:q}"
        " --tokens {params.tokens:q} --model {params.model:q} --output {params.output:q} --log {log:q}"
        " --llms {llm_settings:q} --answers {plan.answers:q}"
