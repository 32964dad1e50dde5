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
        **spec(lambda w: plan.latents(coder_of(w), w.variant)),
        coder=folder("coder"),
        output=folder("output"),
    shell:
        "python -m bsc latents --spec {params.spec:q} --coder {params.coder:q} --activations {input.index:q}"
        " --output {params.output:q} --log {log:q}"


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
        **spec(lambda w: plan.explanations(coder_of(w), w.variant)),
        latents=folder("latents"),
        tokens=folder("tokens"),
        model=folder("model"),
        output=folder("output"),
    shell:
        "python -m bsc explain --spec {params.spec:q} --latents {params.latents:q} --tokens {params.tokens:q}"
        " --model {params.model:q} --output {params.output:q} --log {log:q}"


rule score:
    """Score explanations on windows of the test half."""
    input:
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
        **spec(lambda w: plan.scores(coder_of(w), w.variant)),
        latents=folder("latents"),
        explanations=folder("explanations"),
        tokens=folder("tokens"),
        output=folder("output"),
    shell:
        "python -m bsc score --spec {params.spec:q} --latents {params.latents:q} --explanations {params.explanations:q}"
        " --tokens {params.tokens:q} --output {params.output:q} --log {log:q}"
