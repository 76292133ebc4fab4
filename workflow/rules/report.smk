rule report:
    """Pages that show what was made; `snakemake --report report.html` puts them into one file."""
    input:
        accounts=expand("results/split/{corpus}/account.json", corpus=CORPORA),
        tokenizers=report_tokenizers(),
        models=expand("results/pretrain/{model}", model=MODELS),
        exports=expand("results/export/{model}", model=MODELS),
        evaluations=report_evaluations(),
    output:
        overview=report(
            "results/report/{date}/overview.html",
            category="1 Overview",
            labels={"page": "What was made"},
            caption="../report/overview.rst",
        ),
        corpora=report(
            "results/report/{date}/corpora.html",
            category="2 Corpora",
            labels={"page": "Where the articles went"},
            caption="../report/corpora.rst",
        ),
        tokenizers=report(
            "results/report/{date}/tokenizers.html",
            category="3 Tokenizers",
            labels={"page": "How text is cut"},
            caption="../report/tokenizers.rst",
        ),
        training=report(
            "results/report/{date}/training.html",
            category="4 Training",
            labels={"page": "How models learnt"},
            caption="../report/training.rst",
        ),
        evaluation=report(
            "results/report/{date}/evaluation.html",
            category="5 Evaluation",
            labels={"page": "What models can"},
            caption="../report/evaluation.rst",
        ),
        samples=report(
            "results/report/{date}/samples.html",
            category="6 Samples",
            labels={"page": "What models write"},
            caption="../report/samples.rst",
        ),
        resources=report(
            "results/report/{date}/resources.html",
            category="7 Time and memory",
            labels={"page": "What it took"},
            caption="../report/resources.rst",
        ),
    log:
        "logs/report/{date}.log",
    benchmark:
        "benchmarks/report/{date}.tsv"
    wildcard_constraints:
        date=cfg.dump_date,
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=1000,
        runtime="10m",
    params:
        flags=flags(NoKnobs()),
        code=code("report"),
    shell:
        "python -m jalm report {params.flags} --date {wildcards.date} --accounts {input.accounts:q}"
        " --tokenizers {input.tokenizers:q} --models {input.models:q} --exports {input.exports:q}"
        " --evaluations {input.evaluations:q} --pages {output:q} &> {log:q}"
