# What scoring reads where sentence embeddings are asked for: static, so that a plan without them is not slower for it.
EMBEDDED = (
    {
        "embedder": at(paths.EMBEDDER, file="manifest.json"),
        "embeddings": at(paths.EMBEDDINGS, file="manifest.json"),
    }
    if plan.embeds
    else {}
)
EMBEDDED_FLAGS = [word for name, path in EMBEDDED.items() for word in (f"--{name}", path)]


if plan.embeds:

    rule embedder:
        """Fetch a sentence-embedding model, so that scoring works offline."""
        output:
            at(paths.EMBEDDER, file="manifest.json"),
        log:
            log_of(paths.EMBEDDER),
        benchmark:
            benchmark_of(paths.EMBEDDER)
        conda:
            "../envs/bsc.yaml"
        threads: 1
        resources:
            mem_mb=grown(2_000),
            runtime=grown(60),
        params:
            stage=stage(lambda w: plan.embedder()),
        shell:
            "python -m bsc embedder --spec {params.stage[0]:q} --output {output:q} --log {log:q}"

    rule embed:
        """Embed the windows that explanations are tested on, once for all coders of a model."""
        input:
            model=at(paths.MODEL, file="manifest.json"),
            tokens=at(paths.TOKENS, file="interpretation.safetensors"),
            embedder=at(paths.EMBEDDER, file="manifest.json"),
        output:
            [at(paths.EMBEDDINGS, file=file) for file in ("manifest.json", "embeddings.safetensors")],
        log:
            log_of(paths.EMBEDDINGS),
        benchmark:
            benchmark_of(paths.EMBEDDINGS)
        conda:
            "../envs/bsc.yaml"
        threads: 2
        resources:
            mem_mb=grown(8_000),
            runtime=grown(240),
            gpus=1,
        params:
            stage=stage(lambda w: plan.embeddings(w.model)),
        shell:
            "python -m bsc embed --spec {params.stage[0]:q} --model {input.model:q} --tokens {input.tokens:q}"
            " --embedder {input.embedder:q} --output {output:q} --log {log:q}"
