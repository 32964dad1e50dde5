rule tokens:
    """Cut the text into contexts of tokens; the splits hold different documents."""
    input:
        model=at(paths.MODEL, file="manifest.json"),
    output:
        at(paths.TOKENS, file="manifest.json"),
        [at(paths.TOKENS, file=f"{split}.safetensors") for split in paths.SPLITS],
    log:
        log_of(paths.TOKENS),
    benchmark:
        benchmark_of(paths.TOKENS)
    conda:
        "../envs/bsc.yaml"
    threads: 2
    resources:
        mem_mb=grown(8_000),
        runtime=grown(24 * 60),
    params:
        **spec(lambda w: plan.tokens(w.model)),
        model=folder("model"),
        output=folder("output"),
    shell:
        "python -m bsc tokens --spec {params.spec:q} --model {params.model:q} --output {params.output:q} --log {log:q}"
