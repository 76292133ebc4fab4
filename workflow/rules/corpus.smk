rule download:
    """Fetch a dump from its mirror, verified against the mirror's checksums."""
    output:
        dump=directory("resources/{corpus}/dump"),
        index="resources/{corpus}/blocks.tsv",
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
        dump="resources/{corpus}/dump",
        index="resources/{corpus}/blocks.tsv",
        templates=TEMPLATES,
    output:
        documents="results/extract/{corpus}/{part}.jsonl.zst",
        counts="results/extract/{corpus}/counts/{part}.json",
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
        " --dump {input.dump:q} --index {input.index:q} --output {output.documents:q}"
        " --counts {output.counts:q} &> {log:q}"


rule import_text:
    """Bring one part of a local text corpus in as documents."""
    input:
        import_files,
    output:
        documents="results/import_text/{corpus}/{part}.jsonl.zst",
        counts="results/import_text/{corpus}/counts/{part}.json",
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
        flags=import_flags,
        part=part_flags,
        paths=import_paths,
        code=code("import_text"),
    shell:
        "python -m jalm import_text {params.flags} {params.part}"
        " --input {params.paths} --output {output.documents:q} --counts {output.counts:q} &> {log:q}"


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
        options=flags(cfg.segment, neutral=True),
    params:
        flags=flags(cfg.segment),
        dictionary=dictionary(cfg.segment.dictionary),
        code=code("segment"),
    shell:
        "python -m jalm segment {params.flags} {resources.options} --input {input:q} --output {output:q} &> {log:q}"


rule filter:
    """Keep the documents that are good enough, and sign them for dedup."""
    input:
        "results/segment/{corpus}/{part}.jsonl.zst",
    output:
        kept="results/filter/{corpus}/{part}.jsonl.zst",
        dropped="results/filter/{corpus}/dropped/{part}.jsonl.zst",
        signatures="results/filter/{corpus}/signatures/{part}.jsonl.zst",
        counts="results/filter/{corpus}/counts/{part}.json",
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
        flags=filter_flags,
        hojichar=hojichar,
        code=code("filter"),
    shell:
        "python -m jalm filter {params.flags} --input {input:q} --output {output.kept:q}"
        " --dropped {output.dropped:q} --signatures {output.signatures:q} --counts {output.counts:q} &> {log:q}"


rule dedup:
    """Find the documents that repeat another, of the same corpus or of one before it."""
    input:
        own=signatures,
        earlier=earlier_signatures,
        earlier_drop=earlier_drops,
    output:
        drop="results/dedup/{corpus}/drop.jsonl.zst",
        counts="results/dedup/{corpus}/counts.json",
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
        flags=flags(cfg.deduplication()),
        code=code("dedup"),
    shell:
        "python -m jalm dedup {params.flags}"
        " --input {input.own:q} --earlier {input.earlier:q} --earlier-drop {input.earlier_drop:q}"
        " --output {output.drop:q} --counts {output.counts:q} &> {log:q}"


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
    """Add up what fell on each side of a corpus, refuse an empty side, and give account of all stages."""
    input:
        intake=intake_counts,
        filter=filter_counts,
        dedup="results/dedup/{corpus}/counts.json",
        split=split_counts,
    output:
        summary="results/split/{corpus}/summary.json",
        account="results/split/{corpus}/account.json",
        table="results/split/{corpus}/account.md",
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
        "python -m jalm split_summary {params.flags} --name {wildcards.corpus:q} --intake {input.intake:q}"
        " --filter {input.filter:q} --dedup {input.dedup:q} --split {input.split:q} --output {output.summary:q}"
        " --account {output.account:q} --table {output.table:q} &> {log:q}"
