def choice_of(wildcards):
    """Where the learning rate of a tuned coder stands; nothing for one whose config names it."""
    coder = coder_of(wildcards)
    if not plan.config.tuned(coder):
        return []
    return [at(paths.CHOICE, plan.sweep(coder), file="choice.json")]


rule train:
    """Train one coder."""
    input:
        # The digest in `code` covers what the activations are; a shard rebuilt as it was retrains nothing.
        index=lambda w: ancient(at(paths.INDEX, model=w.model, split="train", hookpoint=w.hookpoint)),
        choice=choice_of,
    output:
        [
            at(paths.CODERS, file=file)
            for file in (
                "manifest.json",
                "coder.safetensors",
                "config.json",
                "log.parquet",
            )
        ],
    log:
        log_of(paths.CODERS),
    benchmark:
        benchmark_of(paths.CODERS)
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(8_000),
        runtime=grown(24 * 60),
        gpus=1,
    params:
        **spec(lambda w: plan.coder(coder_of(w))),
        choice=lambda w, input: ["--choice", *input.choice] if input.choice else [],
        output=folder("output"),
    shell:
        "python -m bsc train --spec {params.spec:q} --activations {input.index:q} {params.choice:q}"
        " --output {params.output:q} --log {log:q}"
