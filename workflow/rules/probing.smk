rule labelled:
    """Activations of labelled documents at every hookpoint of a model, in one pass."""
    input:
        model=at(paths.MODEL, file="manifest.json"),
    output:
        at(paths.LABELLED, file="manifest.json"),
    log:
        log_of(paths.LABELLED),
    benchmark:
        benchmark_of(paths.LABELLED)
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(8_000),
        runtime=grown(240),
        gpus=1,
    params:
        stage=stage(lambda w: plan.labelled(w.model)),
    shell:
        "python -m bsc labelled --spec {params.stage[0]:q} --model {input.model:q} --output {output:q} --log {log:q}"


rule probe:
    """Tell the labels of documents by a few latents of a coder, and by as many dimensions of what it reads."""
    input:
        labelled=at(paths.LABELLED, file="manifest.json"),
        coder=at(paths.CODERS, file="manifest.json"),
    output:
        [at(paths.PROBES, file=file) for file in ("manifest.json", "probes.parquet", "scores.parquet", "metrics.json")],
    log:
        log_of(paths.PROBES),
    benchmark:
        benchmark_of(paths.PROBES)
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(8_000),
        runtime=grown(240),
        gpus=1,
    params:
        stage=stage(lambda w: plan.probe(coder_of(w))),
    shell:
        "python -m bsc probe --spec {params.stage[0]:q} --labelled {input.labelled:q} --coder {input.coder:q}"
        " --output {output:q} --log {log:q}"
