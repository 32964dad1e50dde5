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
        stage=stage(lambda w: plan.tokens(w.model)),
    shell:
        "python -m bsc tokens --spec {params.stage[0]:q} --model {input.model:q} --output {output:q} --log {log:q}"
