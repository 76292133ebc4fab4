rule download:
    """Fetch a dump from its mirror, verified against the mirror's checksums."""
    output:
        dump="resources/{corpus}/dump.xml.bz2",
        index="resources/{corpus}/streams.tsv",
        manifest="resources/{corpus}/manifest.json",
    log:
        "logs/download/{corpus}.log",
    benchmark:
        "benchmarks/download/{corpus}.tsv"
    wildcard_constraints:
        corpus=WIKIS,
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=500,
        runtime="1d",
        options=download_options,
    params:
        flags=download_flags,
        code=code("download"),
    shell:
        "python -m jalm download {params.flags} {resources.options}"
        " --dump {output.dump:q} --index {output.index:q} --manifest {output.manifest:q} &> {log:q}"


rule extract:
    """Clean the articles of one part of a dump with wikiextractor."""
    input:
        dump="resources/{corpus}/dump.xml.bz2",
        index="resources/{corpus}/streams.tsv",
        templates=TEMPLATES,
    output:
        "results/extract/{corpus}/{part}.jsonl.zst",
    log:
        "logs/extract/{corpus}/{part}.log",
    benchmark:
        "benchmarks/extract/{corpus}/{part}.tsv"
    wildcard_constraints:
        corpus=WIKIS,
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(240),
        options=extract_options,
    params:
        flags=flags(cfg.extract),
        part=part_flags,
        code=code("extract"),
    shell:
        "python -m jalm extract {params.flags} {resources.options} {params.part}"
        " --dump {input.dump:q} --index {input.index:q} --output {output:q} &> {log:q}"


rule import_text:
    """Bring one part of a local text corpus in as documents."""
    input:
        import_files,
    output:
        "results/import_text/{corpus}/{part}.jsonl.zst",
    log:
        "logs/import_text/{corpus}/{part}.log",
    benchmark:
        "benchmarks/import_text/{corpus}/{part}.tsv"
    wildcard_constraints:
        corpus=TEXTS,
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(240),
    params:
        flags=flags(NoKnobs()),
        part=part_flags,
        paths=import_paths,
        code=code("import_text"),
    shell:
        "python -m jalm import_text {params.flags} {params.part}"
        " --input {params.paths} --output {output:q} &> {log:q}"


rule segment:
    """Cut the paragraphs of every document into sentences."""
    input:
        raw_documents,
    output:
        "results/segment/{corpus}/{part}.jsonl.zst",
    log:
        "logs/segment/{corpus}/{part}.log",
    benchmark:
        "benchmarks/segment/{corpus}/{part}.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(120),
    params:
        flags=flags(cfg.segment),
        code=code("segment"),
    shell:
        "python -m jalm segment {params.flags} --input {input:q} --output {output:q} &> {log:q}"


rule filter:
    """Keep the documents that are good enough, and sign them for dedup."""
    input:
        "results/segment/{corpus}/{part}.jsonl.zst",
    output:
        kept="results/filter/{corpus}/{part}.jsonl.zst",
        dropped="results/filter/{corpus}/dropped/{part}.jsonl.zst",
        signatures="results/filter/{corpus}/signatures/{part}.jsonl.zst",
    log:
        "logs/filter/{corpus}/{part}.log",
    benchmark:
        "benchmarks/filter/{corpus}/{part}.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(120),
    params:
        flags=flags(cfg.filter),
        code=code("filter"),
    shell:
        "python -m jalm filter {params.flags} --input {input:q} --output {output.kept:q}"
        " --dropped {output.dropped:q} --signatures {output.signatures:q} &> {log:q}"


rule dedup:
    """Find the documents that repeat an earlier one, of the same corpus or of one before it."""
    input:
        own=signatures,
        earlier=earlier_signatures,
    output:
        "results/dedup/{corpus}/drop.jsonl.zst",
    log:
        "logs/dedup/{corpus}.log",
    benchmark:
        "benchmarks/dedup/{corpus}.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        flags=flags(cfg.dedup),
        code=code("dedup"),
    shell:
        "python -m jalm dedup {params.flags}"
        " --input {input.own:q} --earlier {input.earlier:q} --output {output:q} &> {log:q}"


rule split:
    """Assign the documents of one part to train, valid and test."""
    input:
        documents="results/filter/{corpus}/{part}.jsonl.zst",
        drop="results/dedup/{corpus}/drop.jsonl.zst",
    output:
        train="results/split/{corpus}/train/{part}.jsonl.zst",
        valid="results/split/{corpus}/valid/{part}.jsonl.zst",
        test="results/split/{corpus}/test/{part}.jsonl.zst",
        counts="results/split/{corpus}/counts/{part}.json",
    log:
        "logs/split/{corpus}/{part}.log",
    benchmark:
        "benchmarks/split/{corpus}/{part}.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(60),
    params:
        flags=flags(cfg.split),
        code=code("split"),
    shell:
        "python -m jalm split {params.flags} --input {input.documents:q} --drop {input.drop:q} --train {output.train:q}"
        " --valid {output.valid:q} --test {output.test:q} --counts {output.counts:q} &> {log:q}"


rule split_summary:
    """Add up what fell on each side of a corpus, and refuse an empty side."""
    input:
        split_counts,
    output:
        "results/split/{corpus}/summary.json",
    log:
        "logs/split_summary/{corpus}.log",
    benchmark:
        "benchmarks/split_summary/{corpus}.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        mem_mb=500,
        runtime="10m",
    params:
        flags=flags(NoKnobs()),
        code=code("split_summary"),
    shell:
        "python -m jalm split_summary {params.flags} --input {input:q} --output {output:q} &> {log:q}"
