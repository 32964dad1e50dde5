rule latents:
    """Cache where each latent of a coder (or of a control made of it) fires."""
    input:
        coder=at(paths.CODERS, file="manifest.json"),
        index=lambda w: ancient(
            at(
                paths.INDEX,
                model=w.model,
                split="interpretation",
                hookpoint=w.hookpoint,
            )
        ),
    output:
        [
            at(paths.LATENTS, file=file)
            for file in (
                "manifest.json",
                "latents.safetensors",
                "counts.parquet",
                "metrics.json",
            )
        ],
    log:
        log_of(paths.LATENTS),
    benchmark:
        benchmark_of(paths.LATENTS)
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        # Ten bytes a firing, k firings a token, while they are sorted by latent.
        mem_mb=lambda w, attempt: (4_000 + plan.rows("interpretation") * int(w.k) // 10**5) * 2 ** (attempt - 1),
        runtime=grown(240),
        gpus=1,
    params:
        stage=stage(lambda w: plan.latents(coder_of(w), w.variant)),
    shell:
        "python -m bsc latents --spec {params.stage[0]:q} --coder {input.coder:q} --activations {input.index:q}"
        " --output {output:q} --log {log:q}"


rule explain:
    """Explain a coder's latents from windows of the explanation half."""
    input:
        model=at(paths.MODEL, file="manifest.json"),
        latents=at(paths.LATENTS, file="manifest.json"),
        tokens=at(paths.TOKENS, file="interpretation.safetensors"),
    output:
        [at(paths.EXPLANATIONS, file=file) for file in ("manifest.json", "explanations.parquet")],
    log:
        log_of(paths.EXPLANATIONS),
    benchmark:
        benchmark_of(paths.EXPLANATIONS)
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(4_000),
        runtime=grown(240),
    params:
        stage=stage(lambda w: plan.explanations(coder_of(w), w.variant)),
    shell:
        "python -m bsc explain --spec {params.stage[0]:q} --latents {input.latents:q} --tokens {input.tokens:q}"
        " --model {input.model:q} --output {output:q} --log {log:q}"


rule score:
    """Score explanations on windows of the test half."""
    input:
        **EMBEDDED,
        explanations=at(paths.EXPLANATIONS, file="manifest.json"),
        latents=at(paths.LATENTS, file="manifest.json"),
        tokens=at(paths.TOKENS, file="interpretation.safetensors"),
    output:
        [
            at(paths.SCORES, file=file)
            for file in (
                "manifest.json",
                "scores.parquet",
                "answers.parquet",
                "summary.json",
            )
        ],
    log:
        log_of(paths.SCORES),
    benchmark:
        benchmark_of(paths.SCORES)
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(4_000),
        runtime=grown(240),
    params:
        stage=stage(lambda w: plan.scores(coder_of(w), w.variant)),
        embedded=EMBEDDED_FLAGS,
    shell:
        "python -m bsc score --spec {params.stage[0]:q} --latents {input.latents:q} --explanations {input.explanations:q}"
        " {params.embedded:q} --tokens {input.tokens:q} --output {output:q} --log {log:q}"
