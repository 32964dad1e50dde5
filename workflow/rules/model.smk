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
        stage=stage(lambda w: plan.model(w.model)),
    shell:
        "python -m bsc model --spec {params.stage[0]:q} --output {output:q} --log {log:q}"
