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
            stage=stage(lambda w, figure=figure: plan.figure(figure)),
            results=lambda w: results,
            output=lambda w, output: Path(output[0]).with_suffix(""),
        shell:
            "python -m bsc figure --spec {params.stage[0]:q} --results {params.results:q} --output {params.output:q} --log {log:q}"


rule figure_gallery:
    """The page of all figures and tables, with captions and links to the numbers."""
    input:
        figures=figure_files(),
        captions=[
            os.path.relpath(Path(workflow.basedir, "workflow", "report", f"{figure}.rst"))
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
        stage=stage(lambda w: plan.gallery()),
        results=lambda w: results,
        captions=lambda w, input: Path(input.captions[0]).parent,
    shell:
        "python -m bsc gallery --spec {params.stage[0]:q} --results {params.results:q} --captions {params.captions:q}"
        " --output {output:q} --log {log:q}"
