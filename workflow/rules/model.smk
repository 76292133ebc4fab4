rule pretrain:
    """Train a model; what is unfinished lies under states/ and is gone on with."""
    input:
        train=model_manifests("train"),
        valid=model_manifests("valid"),
        train_shards=ancient(model_shards("train")),
        valid_shards=ancient(model_shards("valid")),
    output:
        directory("results/pretrain/{model}"),
    log:
        "logs/pretrain/{model}.log",
    benchmark:
        "benchmarks/pretrain/{model}.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        mem_mb=32000,
        runtime="1d",
        cpus_per_task=threads_given,
        options=pretrain_options,
    params:
        flags=pretrain_flags,
        code=recipe("pretrain"),
    shell:
        "python -m jalm pretrain {params.flags} {resources.options} --cpus {resources.cpus_per_task}"
        " --train {input.train:q} --valid {input.valid:q}"
        " --states states/{wildcards.model:q} --output {output:q} &> {log:q}"


rule evaluate:
    """Judge a model on the test side of a corpus."""
    input:
        model="results/pretrain/{model}",
        manifest=test_manifest,
        shards=ancient(test_shards),
    output:
        "results/evaluate/{model}/{corpus}.json",
    log:
        "logs/evaluate/{model}/{corpus}.log",
    benchmark:
        "benchmarks/evaluate/{model}/{corpus}.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime="2h",
        cpus_per_task=threads_given,
        options=flags(cfg.evaluate, neutral=True),
    params:
        flags=flags(cfg.evaluate),
        code=code("evaluate"),
    shell:
        "python -m jalm evaluate {params.flags} {resources.options} --cpus {resources.cpus_per_task} --model {input.model:q}"
        " --test {input.manifest:q} --name {wildcards.corpus:q} --output {output:q} &> {log:q}"
