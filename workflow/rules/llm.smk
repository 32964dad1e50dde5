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
        **reached_by(),
        mem_mb=grown(8_000),
        runtime=grown(24 * 60),
        gpus=lambda w: llm_gpus(w.llm),
    params:
        stage=stage(lambda w: plan.explanations(coder_of(w), w.variant, w.llm)),
    shell:
        "python -m bsc explain --spec {params.stage[0]:q} --latents {input.latents:q} --tokens {input.tokens:q}"
        " --model {input.model:q} --output {output:q} --log {log:q}"
        " --llms {resources.llms:q} --answers {resources.answers:q}"


rule score_llm:
    """Score a language model's explanations on windows of the test half, by a language model."""
    input:
        **EMBEDDED,
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
        **reached_by(),
        mem_mb=grown(8_000),
        runtime=grown(24 * 60),
        gpus=lambda w: llm_gpus(plan.judge(w.llm)),
    params:
        stage=stage(lambda w: plan.scores(coder_of(w), w.variant, w.llm)),
        embedded=EMBEDDED_FLAGS,
    shell:
        "python -m bsc score --spec {params.stage[0]:q} --latents {input.latents:q} --explanations {input.explanations:q}"
        " {params.embedded:q} --tokens {input.tokens:q} --model {input.model:q} --output {output:q} --log {log:q}"
        " --llms {resources.llms:q} --answers {resources.answers:q}"
