rule model:
    """Fetch a language model and keep it as safetensors with its tokenizer."""
    output:
        at(paths.MODEL, file="manifest.json"),
    log:
        log_of(paths.MODEL),
    benchmark:
        benchmark_of(paths.MODEL)
    conda:
        "../envs/bsc.yaml"
    threads: 2
    resources:
        mem_mb=grown(8_000),
        runtime=grown(60),
    params:
        **spec(lambda w: plan.model(w.model)),
        output=folder("output"),
    shell:
        "python -m bsc model --spec {params.spec:q} --output {params.output:q} --log {log:q}"
