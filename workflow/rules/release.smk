rule export:
    """Make the Hugging Face folder of a model, and prove that it loads and agrees."""
    input:
        model="results/pretrain/{model}",
        spm=of_tokenizer("spm.model"),
        tokenizer=of_tokenizer("tokenizer.json"),
        sample=of_tokenizer("sample.json"),
        evaluations=model_evaluations,
        texts=test_documents,
        accounts=model_accounts,
        manifests=model_dumps,
    output:
        directory("results/export/{model}"),
    log:
        "logs/export/{model}.log",
    benchmark:
        "benchmarks/export/{model}.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
        options=export_options,
    params:
        flags=export_flags,
        code=code("export"),
    shell:
        "python -m jalm export {params.flags} {resources.options} --model {input.model:q} --spm {input.spm:q}"
        " --tokenizer {input.tokenizer:q} --sample {input.sample:q} --evaluation {input.evaluations:q} --texts {input.texts:q}"
        " --account {input.accounts:q} --manifest {input.manifests:q} --output {output:q} &> {log:q}"


rule publish:
    """Upload the Hugging Face folder of a model to the Hub; only when asked for by name."""
    input:
        published_folder,
    output:
        "results/publish/{model}.json",
    log:
        "logs/publish/{model}.log",
    benchmark:
        "benchmarks/publish/{model}.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(240),
        options=publish_options,
    params:
        flags=publish_flags,
        code=code("publish"),
    shell:
        "python -m jalm publish {params.flags} {resources.options} --model {input:q} --output {output:q} &> {log:q}"
