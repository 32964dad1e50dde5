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
            **spec(lambda w, name=name: plan.activations(name, w.split, int(w.shard))),
            model=folder("model"),
            tokens=folder("tokens"),
            output=folder("output"),
        shell:
            "python -m bsc activations --spec {params.spec:q} --model {params.model:q} --tokens {params.tokens:q}"
            " --output {params.output:q} --log {log:q}"


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
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(2_000),
        runtime=grown(24 * 60),
    params:
        context=lambda w: plan.context(w.split),
    shell:
        "python -m bsc index --shards {input:q} --context {params.context} --output {output:q} --log {log:q}"
