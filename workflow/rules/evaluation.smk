rule baseline:
    """Cross-entropy of the unspliced model, once a model."""
    input:
        model=at(paths.MODEL, file="manifest.json"),
        tokens=at(paths.TOKENS, file="evaluation.safetensors"),
    output:
        [at(paths.BASELINE, file=file) for file in ("metrics.json", "sequences.parquet")],
    log:
        log_of(paths.BASELINE),
    benchmark:
        benchmark_of(paths.BASELINE)
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(8_000),
        runtime=grown(240),
        gpus=1,
    params:
        **spec(lambda w: plan.baseline(w.model)),
        model=folder("model"),
        tokens=folder("tokens"),
        output=folder("output"),
    shell:
        "python -m bsc baseline --spec {params.spec:q} --model {params.model:q} --tokens {params.tokens:q}"
        " --output {params.output:q} --log {log:q}"


rule references:
    """Cross-entropy with a hooked module put to zero, and to its mean."""
    input:
        model=at(paths.MODEL, file="manifest.json"),
        baseline=at(paths.BASELINE, file="metrics.json"),
        tokens=at(paths.TOKENS, file="evaluation.safetensors"),
    output:
        [at(paths.REFERENCES, file=file) for file in ("metrics.json", "sequences.parquet")],
    log:
        log_of(paths.REFERENCES),
    benchmark:
        benchmark_of(paths.REFERENCES)
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(8_000),
        runtime=grown(240),
        gpus=1,
    params:
        **spec(lambda w: plan.references(w.model, w.hookpoint)),
        model=folder("model"),
        tokens=folder("tokens"),
        baseline=folder("baseline"),
        output=folder("output"),
    shell:
        "python -m bsc references --spec {params.spec:q} --model {params.model:q} --tokens {params.tokens:q}"
        " --baseline {params.baseline:q} --output {params.output:q} --log {log:q}"


rule evaluate:
    """Cross-entropy with a coder spliced in (or, at `joint`, one at every hookpoint), FVU and frequencies."""
    input:
        model=at(paths.MODEL, file="manifest.json"),
        baseline=at(paths.BASELINE, file="metrics.json"),
        tokens=at(paths.TOKENS, file="evaluation.safetensors"),
        coders=lambda w: [at(paths.CODERS, coder, file="manifest.json") for coder in plan.members(coder_of(w))],
    output:
        [at(paths.EVALUATION, file=file) for file in ("metrics.json", "sequences.parquet", "latents.parquet")],
    log:
        log_of(paths.EVALUATION),
    benchmark:
        benchmark_of(paths.EVALUATION)
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(8_000),
        runtime=grown(240),
        gpus=1,
    params:
        **spec(lambda w: plan.evaluation(coder_of(w))),
        model=folder("model"),
        tokens=folder("tokens"),
        baseline=folder("baseline"),
        coders=folder("coders"),
        output=folder("output"),
    shell:
        "python -m bsc evaluate --spec {params.spec:q} --model {params.model:q} --tokens {params.tokens:q}"
        " --baseline {params.baseline:q} --coders {params.coders:q} --output {params.output:q} --log {log:q}"


rule ablation:
    """Set a coder's latents to zero in bins of F1: what each bin is worth to the model."""
    input:
        model=at(paths.MODEL, file="manifest.json"),
        tokens=at(paths.TOKENS, file="evaluation.safetensors"),
        coder=at(paths.CODERS, file="manifest.json"),
        scores=lambda w: at(
            paths.interpreted(paths.SCORES, plan.figure_explainers("fig18")[0]),
            coder_of(w),
            variant="trained",
            file="manifest.json",
        ),
    output:
        [
            at(paths.ABLATION, file=file)
            for file in ("manifest.json", "bins.parquet", "members.parquet", "sequences.parquet")
        ],
    log:
        log_of(paths.ABLATION),
    benchmark:
        benchmark_of(paths.ABLATION)
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(8_000),
        runtime=grown(24 * 60),
        gpus=1,
    params:
        **spec(lambda w: plan.ablation(coder_of(w))),
        model=folder("model"),
        tokens=folder("tokens"),
        coder=folder("coder"),
        scores=folder("scores"),
        output=folder("output"),
    shell:
        "python -m bsc ablation --spec {params.spec:q} --model {params.model:q} --tokens {params.tokens:q}"
        " --coder {params.coder:q} --scores {params.scores:q} --output {params.output:q} --log {log:q}"
