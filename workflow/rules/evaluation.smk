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
        stage=stage(lambda w: plan.baseline(w.model)),
    shell:
        "python -m bsc baseline --spec {params.stage[0]:q} --model {input.model:q} --tokens {input.tokens:q}"
        " --output {output:q} --log {log:q}"


rule references:
    """Cross-entropy with each hooked module put to zero, to its mean, and to a linear map of its input, once a model."""
    input:
        model=at(paths.MODEL, file="manifest.json"),
        baseline=at(paths.BASELINE, file="metrics.json"),
        tokens=at(paths.TOKENS, file="evaluation.safetensors"),
        fitted=at(paths.TOKENS, file="train.safetensors"),
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
        stage=stage(lambda w: plan.references(w.model)),
    shell:
        "python -m bsc references --spec {params.stage[0]:q} --model {input.model:q} --tokens {input.tokens:q}"
        " --baseline {input.baseline:q} --output {output:q} --log {log:q}"


rule evaluate:
    """Cross-entropy with a coder spliced in (or, at `joint`, one at every hookpoint), FVU and frequencies."""
    input:
        model=at(paths.MODEL, file="manifest.json"),
        baseline=at(paths.BASELINE, file="metrics.json"),
        tokens=at(paths.TOKENS, file="evaluation.safetensors"),
        coders=lambda w: [at(paths.CODERS, coder, file="manifest.json") for coder in plan.members(evaluated_of(w))],
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
        stage=stage(lambda w: plan.evaluation(evaluated_of(w))),
    shell:
        "python -m bsc evaluate --spec {params.stage[0]:q} --model {input.model:q} --tokens {input.tokens:q}"
        " --baseline {input.baseline:q} --coders {input.coders:q} --output {output:q} --log {log:q}"


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
        stage=stage(lambda w: plan.ablation(coder_of(w))),
    shell:
        "python -m bsc ablation --spec {params.stage[0]:q} --model {input.model:q} --tokens {input.tokens:q}"
        " --coder {input.coder:q} --scores {input.scores:q} --output {output:q} --log {log:q}"
