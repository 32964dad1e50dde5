for name, hooked in plan.config.models.items():

    rule:
        """One shard of activations: every hookpoint of a model in one forward pass."""
        name:
            f"activations_{name}"
        input:
            model=at(paths.MODEL, file="manifest.json", model=name),
            tokens=at(paths.TOKENS, file="{{split}}.safetensors", model=name),
        output:
            [
                at(
                    paths.SHARD,
                    model=name,
                    split="{split}",
                    shard="{shard}",
                    hookpoint=hookpoint,
                )
                for hookpoint in hooked.hookpoints
            ],
        log:
            log_of(f"activations/{name}/{{split}}/shard{{shard}}"),
        benchmark:
            benchmark_of(f"activations/{name}/{{split}}/shard{{shard}}")
        conda:
            "../envs/bsc.yaml"
        threads: 1
        resources:
            mem_mb=grown(8_000),
            runtime=grown(240),
            gpus=1,
        params:
            stage=stage(lambda w, name=name: plan.activations(name, w.split, int(w.shard))),
        shell:
            "python -m bsc activations --spec {params.stage[0]:q} --model {input.model:q} --tokens {input.tokens:q}"
            " --output {output:q} --log {log:q}"


rule index:
    """List a hookpoint's shards with their checksums; what reads activations takes this."""
    input:
        lambda w: [
            at(
                paths.SHARD,
                model=w.model,
                split=w.split,
                shard=shard,
                hookpoint=w.hookpoint,
            )
            for shard in range(plan.shards(w.split))
        ],
    output:
        at(paths.INDEX),
    log:
        log_of(paths.INDEX.removesuffix(".json")),
    benchmark:
        benchmark_of(paths.INDEX.removesuffix(".json"))
    wildcard_constraints:
        split="|".join(stored_splits(plan.config)),
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(2_000),
        runtime=grown(24 * 60),
    params:
        context=lambda w: plan.context(w.split),
        rows=lambda w: plan.rows(w.split),
    shell:
        "python -m bsc index --shards {input:q} --context {params.context} --output {output:q} --log {log:q}"


if streamed:

    rule recipe:
        """Say how a hookpoint's activations are made, in the jobs that read them."""
        input:
            model=at(paths.MODEL, file="manifest.json"),
            tokens=at(paths.TOKENS, file="manifest.json"),
        output:
            at(paths.INDEX, model="{model}", split="train", hookpoint="{hookpoint}"),
        log:
            log_of("activations/{model}/train/{hookpoint}.recipe"),
        benchmark:
            benchmark_of("activations/{model}/train/{hookpoint}.recipe")
        conda:
            "../envs/bsc.yaml"
        threads: 1
        resources:
            mem_mb=grown(2_000),
            runtime=grown(60),
        params:
            stage=stage(lambda w: plan.recipe(w.model, w.hookpoint)),
        shell:
            "python -m bsc recipe --spec {params.stage[0]:q} --model {input.model:q} --tokens {input.tokens:q}"
            " --output {output:q} --log {log:q}"
