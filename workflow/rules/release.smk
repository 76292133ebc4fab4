rule export:
    """Make the Hugging Face folder of a model, and prove that it loads and agrees."""
    input:
        model="results/pretrain/{model}",
        spm=spm_model,
        tokenizer=exported_tokenizer,
        evaluations=model_evaluations,
        texts=test_documents,
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
    params:
        flags=export_flags,
        code=code("export"),
    shell:
        "python -m jalm export {params.flags} --model {input.model:q} --spm {input.spm:q} --tokenizer {input.tokenizer:q}"
        " --evaluation {input.evaluations:q} --texts {input.texts:q} --output {output:q} &> {log:q}"
