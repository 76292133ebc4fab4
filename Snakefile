from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.basedir}/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/tokenizer.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/release.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/cluster.smk"


localrules:
    all,
    corpus,
    data,
    download,
    publish,
    report,
    split_summary,


rule all:
    """Everything: corpora, tokenizers, token shards, models, their evaluation and export, the report."""
    default_target: True
    input:
        corpus_files(),
        data_files(),
        model_files(),
        report_files(),


rule corpus:
    """Documents of every corpus, cleaned and split into train, valid and test."""
    input:
        corpus_files(),


rule data:
    """Tokenizers, and every corpus as token shards."""
    input:
        corpus_files(),
        data_files(),
