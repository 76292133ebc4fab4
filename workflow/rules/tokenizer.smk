rule train_tokenizer:
    """Train a SentencePiece model on a sample of the train side."""
    input:
        documents=tokenizer_documents("train"),
        summaries=tokenizer_summaries,
        own=own_model,
    output:
        model="results/train_tokenizer/{tokenizer}/spm.model",
        tokenizer="results/train_tokenizer/{tokenizer}/tokenizer.json",
        sample="results/train_tokenizer/{tokenizer}/sample.json",
    log:
        "logs/train_tokenizer/{tokenizer}.log",
    benchmark:
        "benchmarks/train_tokenizer/{tokenizer}.tsv"
    wildcard_constraints:
        tokenizer=TRAINED,
    conda:
        "../../envs/cpu.yaml"
    threads: tokenizer_threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(360),
        cpus_per_task=tokenizer_threads,
        options=flags(cfg.segment, neutral=True),
    params:
        flags=train_tokenizer_flags,
        documents=tokenizer_options("train"),
        dictionary=tokenizer_dictionary,
        code=recipe("train_tokenizer"),
    shell:
        "python -m jalm train_tokenizer {params.flags} {resources.options} {params.documents} --own {input.own:q}"
        " --model {output.model:q} --tokenizer {output.tokenizer:q} --sample {output.sample:q} &> {log:q}"


rule train_tokenizer_report:
    """Measure a tokenizer on the valid side of its corpora."""
    input:
        documents=tokenizer_documents("valid"),
        summaries=tokenizer_summaries,
        model="results/train_tokenizer/{tokenizer}/spm.model",
        tokenizer="results/train_tokenizer/{tokenizer}/tokenizer.json",
        sample="results/train_tokenizer/{tokenizer}/sample.json",
    output:
        report="results/train_tokenizer/{tokenizer}/report.json",
        table="results/train_tokenizer/{tokenizer}/report.md",
    log:
        "logs/train_tokenizer_report/{tokenizer}.log",
    benchmark:
        "benchmarks/train_tokenizer_report/{tokenizer}.tsv"
    wildcard_constraints:
        tokenizer=TRAINED,
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(60),
    params:
        flags=flags(NoKnobs()),
        documents=tokenizer_options("valid"),
        code=code("train_tokenizer_report"),
    shell:
        "python -m jalm train_tokenizer_report {params.flags} --name {wildcards.tokenizer:q} {params.documents}"
        " --model {input.model:q} --tokenizer {input.tokenizer:q} --sample {input.sample:q}"
        " --report {output.report:q} --table {output.table:q} &> {log:q}"


rule shard:
    """Turn the text of one part into tokens."""
    input:
        train="results/split/{corpus}/train/{part}.jsonl.zst",
        valid="results/split/{corpus}/valid/{part}.jsonl.zst",
        test="results/split/{corpus}/test/{part}.jsonl.zst",
        model="results/train_tokenizer/{tokenizer}/spm.model",
        tokenizer="results/train_tokenizer/{tokenizer}/tokenizer.json",
    output:
        train="results/shard/{tokenizer}/{corpus}/train/{part}.bin",
        valid="results/shard/{tokenizer}/{corpus}/valid/{part}.bin",
        test="results/shard/{tokenizer}/{corpus}/test/{part}.bin",
        train_index="results/shard/{tokenizer}/{corpus}/train/{part}.index",
        valid_index="results/shard/{tokenizer}/{corpus}/valid/{part}.index",
        test_index="results/shard/{tokenizer}/{corpus}/test/{part}.index",
        train_sentences="results/shard/{tokenizer}/{corpus}/train/{part}.sentences",
        valid_sentences="results/shard/{tokenizer}/{corpus}/valid/{part}.sentences",
        test_sentences="results/shard/{tokenizer}/{corpus}/test/{part}.sentences",
        train_words="results/shard/{tokenizer}/{corpus}/train/{part}.words",
        valid_words="results/shard/{tokenizer}/{corpus}/valid/{part}.words",
        test_words="results/shard/{tokenizer}/{corpus}/test/{part}.words",
    log:
        "logs/shard/{tokenizer}/{corpus}/{part}.log",
    benchmark:
        "benchmarks/shard/{tokenizer}/{corpus}/{part}.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(60),
        cpus_per_task=threads_given,
    params:
        flags=flags(NoKnobs()),
        code=code("shard"),
    shell:
        "python -m jalm shard {params.flags} --cpus {resources.cpus_per_task}"
        " --train {input.train:q} --valid {input.valid:q} --test {input.test:q}"
        " --model {input.model:q} --tokenizer {input.tokenizer:q} --train-tokens {output.train:q}"
        " --valid-tokens {output.valid:q} --test-tokens {output.test:q} &> {log:q}"


rule shard_manifest:
    """Describe the token shards of a corpus, with their digests."""
    input:
        train=token_files("train"),
        valid=token_files("valid"),
        test=token_files("test"),
        lengths=token_lengths,
        summary="results/split/{corpus}/summary.json",
        model="results/train_tokenizer/{tokenizer}/spm.model",
    output:
        train="results/shard/{tokenizer}/{corpus}/train/manifest.json",
        valid="results/shard/{tokenizer}/{corpus}/valid/manifest.json",
        test="results/shard/{tokenizer}/{corpus}/test/manifest.json",
        train_index="results/shard/{tokenizer}/{corpus}/train/index.npy",
        valid_index="results/shard/{tokenizer}/{corpus}/valid/index.npy",
        test_index="results/shard/{tokenizer}/{corpus}/test/index.npy",
        train_sentences="results/shard/{tokenizer}/{corpus}/train/sentences.npy",
        valid_sentences="results/shard/{tokenizer}/{corpus}/valid/sentences.npy",
        test_sentences="results/shard/{tokenizer}/{corpus}/test/sentences.npy",
    log:
        "logs/shard_manifest/{tokenizer}/{corpus}.log",
    benchmark:
        "benchmarks/shard_manifest/{tokenizer}/{corpus}.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(60),
    params:
        flags=flags(NoKnobs()),
        code=code("shard_manifest"),
    shell:
        "python -m jalm shard_manifest {params.flags} --summary {input.summary:q} --model {input.model:q}"
        " --train {input.train:q} --train-manifest {output.train:q}"
        " --valid {input.valid:q} --valid-manifest {output.valid:q}"
        " --test {input.test:q} --test-manifest {output.test:q} &> {log:q}"
