def figure_files():
    """The files of every figure and table that this grid has coders for."""
    drawn = [name for name in FIGURES if plan.figure_coders(name)]
    return [f"{results}/{name}" for figure in drawn for name in FIGURES[figure].files(figure)]


def figure_inputs(figure):
    """The results that a figure reads."""
    coders, needs = plan.figure_coders(figure), FIGURES[figure].needs
    everything = coders + (plan.joint_coders if FIGURES[figure].joint else [])
    hookpoints = sorted({(coder.model, coder.hookpoint) for coder in everything})
    found = []
    if "evaluation" in needs:
        found += [at(paths.EVALUATION, coder, file="metrics.json") for coder in everything]
    if "references" in needs:
        found += [at(paths.REFERENCES, model=m, hookpoint=h, file="metrics.json") for m, h in hookpoints]
    if "choice" in needs:
        found += [at(paths.CHOICE, coder, file="choice.json") for coder in coders]
    if "training" in needs:
        found += [at(paths.CODERS, coder, file="manifest.json") for coder in coders]
    if "ablation" in needs:
        found += [at(paths.ABLATION, coder, file="manifest.json") for coder in coders]
    if "probing" in needs:
        found += [at(paths.PROBES, coder, file="manifest.json") for coder in coders]
    if "latents" in needs:
        found += [at(paths.LATENTS, coder, variant="trained", file="manifest.json") for coder in coders]
    if "explanations" in needs:
        found += [at(paths.MODEL, model=model, file="manifest.json") for model, _ in hookpoints]
        found += [at(paths.TOKENS, model=model, file="interpretation.safetensors") for model, _ in hookpoints]
        found += [
            at(paths.interpreted(paths.EXPLANATIONS, explainer), coder, variant="trained", file="manifest.json")
            for explainer in plan.figure_explainers(figure)
            for coder in coders
        ]
    if "scores" in needs:
        found += [
            at(paths.interpreted(paths.SCORES, explainer), coder, variant=variant, file="manifest.json")
            for explainer in plan.figure_explainers(figure)
            for coder in coders
            for variant in plan.variants(coder)
        ]
    return found


for figure, entry in FIGURES.items():

    rule:
        """Draw a figure, or write a table, from the results of the coders that it shows."""
        name:
            f"figure_{figure}"
        input:
            lambda w, figure=figure: figure_inputs(figure),
        output:
            [
                report(
                    f"{results}/{name}",
                    caption=f"../report/{figure}.rst",
                    category=entry.kind.capitalize() + "s",
                    labels={entry.kind: figure, "file": name.rpartition(".")[2]},
                )
                for name in entry.files(figure)
            ],
        log:
            log_of(f"figures/{figure}"),
        benchmark:
            benchmark_of(f"figures/{figure}")
        conda:
            "../envs/bsc.yaml"
        threads: 1
        resources:
            mem_mb=grown(4_000),
            runtime=grown(60),
        params:
            **spec(lambda w, figure=figure: plan.figure(figure)),
            results=lambda w: results,
            output=lambda w, output: Path(output[0]).with_suffix(""),
        shell:
            "python -m bsc figure --spec {params.spec:q} --results {params.results:q} --output {params.output:q} --log {log:q}"


rule figure_gallery:
    """The page of all figures and tables, with captions and links to the numbers."""
    input:
        figures=figure_files(),
        captions=[
            Path(workflow.basedir, "workflow", "report", f"{figure}.rst")
            for figure in FIGURES
            if plan.figure_coders(figure)
        ],
    output:
        report(
            at(paths.GALLERY),
            caption="../report/gallery.rst",
            category="Figures",
            labels={"figure": "all", "file": "html"},
        ),
    log:
        log_of("figures/gallery"),
    benchmark:
        benchmark_of("figures/gallery")
    conda:
        "../envs/bsc.yaml"
    threads: 1
    resources:
        mem_mb=grown(2_000),
        runtime=grown(60),
    params:
        **spec(lambda w: plan.gallery()),
        results=lambda w: results,
        captions=folder("captions"),
    shell:
        "python -m bsc gallery --spec {params.spec:q} --results {params.results:q} --captions {params.captions:q}"
        " --output {output:q} --log {log:q}"
