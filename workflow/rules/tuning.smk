rule trial:
    """Try one learning rate of a sweep on its budget."""
    input:
        index=lambda w: trial_index(w, "train"),
        held_out=lambda w: trial_index(w, "interpretation"),
    output:
        at(paths.TRIAL, file="trial.json"),
    log:
        log_of(paths.TRIAL),
    benchmark:
        benchmark_of(paths.TRIAL)
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        **saved(),
        mem_mb=lambda w, attempt: coder_megabytes(w) * 2 ** (attempt - 1),
        runtime=grown(24 * 60),
        gpus=1,
    params:
        stage=stage(lambda w: plan.trial(coder_of(w), w.rate)),
    shell:
        "python -m bsc trial --spec {params.stage[0]:q} --digest {params.stage[1]:q} --activations {input.index:q}"
        " --held-out {input.held_out:q} --checkpoint-minutes {resources.checkpoint_minutes} --output {output:q} --log {log:q}"


rule choose:
    """Take the learning rate with the lowest held-out FVU."""
    input:
        trials=lambda w: [at(paths.TRIAL, coder_of(w), rate=rate, file="trial.json") for rate in plan.rates],
    output:
        at(paths.CHOICE, file="choice.json"),
    log:
        log_of(f"{paths.CHOICE}/choice"),
    benchmark:
        benchmark_of(f"{paths.CHOICE}/choice")
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(2_000),
        runtime=grown(10),
    params:
        stage=stage(lambda w: plan.choice(coder_of(w))),
    shell:
        "python -m bsc choose --spec {params.stage[0]:q} --trials {input.trials:q} --output {output:q} --log {log:q}"
