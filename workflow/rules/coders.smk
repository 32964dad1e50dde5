rule train:
    """Train one coder."""
    input:
        index=train_index,
        cohort=trained_by,
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
    wildcard_constraints:
        binariser=paths.binarisers(without=plan.config.finetunes),
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        **saved(),
        mem_mb=lambda w, attempt: coder_megabytes(w) * 2 ** (attempt - 1),
        runtime=grown(24 * 60),
        gpus=1,
    params:
        stage=stage(lambda w: plan.coder(coder_of(w))),
        choice=lambda w, input: ["--choice", *input.choice] if input.choice else [],
    shell:
        "python -m bsc train --spec {params.stage[0]:q} --digest {params.stage[1]:q} --activations {input.index:q}"
        " {params.choice:q} --checkpoint-minutes {resources.checkpoint_minutes} --output {output:q} --log {log:q}"


rule runtime:
    """Time training steps, by k, batch and number of latents."""
    output:
        [at(paths.RUNTIME, file=file) for file in ("manifest.json", "steps.parquet")],
    log:
        log_of(paths.RUNTIME),
    benchmark:
        benchmark_of(paths.RUNTIME)
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: runtime_megabytes(w) * 2 ** (attempt - 1),
        runtime=grown(240),
        gpus=1,
    params:
        stage=stage(lambda w: plan.runtime(w.model)),
    shell:
        "python -m bsc runtime --spec {params.stage[0]:q} --output {output:q} --log {log:q}"


if plan.config.finetunes:

    rule finetune:
        """Go on training a coder, on what the model predicts with it in the place of the hooked module."""
        input:
            model=at(paths.MODEL, file="manifest.json"),
            tokens=at(paths.TOKENS, file="train.safetensors"),
            coder=lambda w: at(paths.CODERS, plan.config.base(coder_of(w)), file="manifest.json"),
            others=lambda w: [
                at(paths.CODERS, other, file="manifest.json") for other in plan.config.others(coder_of(w))
            ],
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
        wildcard_constraints:
            binariser=paths.any_of(plan.config.finetunes),
        conda:
            "../envs/bsc.yaml"
        threads: 1
        resources:
            **saved(),
            mem_mb=grown(16_000),
            runtime=grown(24 * 60),
            gpus=1,
        params:
            stage=stage(lambda w: plan.coder(coder_of(w))),
            others=lambda w, input: ["--others", *input.others] if input.others else [],
        shell:
            "python -m bsc finetune --spec {params.stage[0]:q} --digest {params.stage[1]:q} --model {input.model:q}"
            " --tokens {input.tokens:q} --coder {input.coder:q} {params.others:q}"
            " --checkpoint-minutes {resources.checkpoint_minutes} --output {output:q} --log {log:q}"


if in_cohorts:

    rule cohort:
        """Train coders that read the same batches, up to where `train` has nothing left to do but to write each."""
        input:
            indices=lambda w: [
                at(paths.INDEX, model=w.model, split="train", hookpoint=hookpoint)
                for hookpoint in cohort_hookpoints(w)
            ],
        output:
            at(paths.COHORT),
        log:
            log_of(paths.COHORT.removesuffix(".json")),
        benchmark:
            benchmark_of(paths.COHORT.removesuffix(".json"))
        conda:
            "../envs/bsc.yaml"
        threads: plan.config.gpus
        resources:
            **saved(),
            mem_mb=lambda w, attempt: cohort_megabytes(w) * 2 ** (attempt - 1),
            runtime=grown(24 * 60),
            gpus=plan.config.gpus,
        params:
            stage=stage(lambda w: plan.cohort(*cohort_of(w))),
            coders=f"{results}/coders",
            run=lambda w, threads: ranks(plan.config.gpus, threads),
            parallel=plan.config.parallel,
        shell:
            "{params.run} bsc cohort --parallel {params.parallel} --spec {params.stage[0]:q}"
            " --activations {input.indices:q} --coders {params.coders:q}"
            " --checkpoint-minutes {resources.checkpoint_minutes} --output {output:q} --log {log:q}"
