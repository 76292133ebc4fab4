rule pretrain:
    """Train a model; what is unfinished lies under states/ and is gone on with."""
    input:
        train=model_manifests("train"),
        valid=model_manifests("valid"),
        train_shards=ancient(model_shards("train")),
        valid_shards=ancient(model_shards("valid")),
        first=first_weights,
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
        mem_mb=growing(32000, most=2),  # attempts may be many: what is too long for one goes on in the next
        runtime="1d",
        cpus_per_task=threads_given,
        nodes=1,
        gpu=0,
        options=pretrain_options,
    params:
        flags=pretrain_flags,
        code=recipe("pretrain"),
    shell:
        "python -m jalm launch --nodes {resources.nodes} --gpus {resources.gpu} --cpus {resources.cpus_per_task}"
        " pretrain {params.flags} {resources.options} --cpus {resources.cpus_per_task}"
        " --train {input.train:q} --valid {input.valid:q}"
        " --states states/{wildcards.model:q} --output {output:q} &>> {log:q}"


rule evaluate:
    """Judge a model on a side of a corpus, or on a text of its own."""
    input:
        unpack(test_files),
        model="results/pretrain/{model}",
        tokenizer=of_tokenizer("tokenizer.json"),
    output:
        "results/evaluate/{model}/{test_set}.json",
    log:
        "logs/evaluate/{model}/{test_set}.log",
    benchmark:
        "benchmarks/evaluate/{model}/{test_set}.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        mem_mb=growing(16000),
        runtime=growing(120),
        cpus_per_task=threads_given,
        gpu=0,
        options=flags(cfg.evaluate, neutral=True),
    params:
        flags=flags(cfg.evaluate),
        judged=test_options,
        code=code("evaluate"),
    shell:
        "python -m jalm launch --gpus {resources.gpu} --cpus {resources.cpus_per_task}"
        " evaluate {params.flags} {resources.options} --cpus {resources.cpus_per_task} --model {input.model:q}"
        " --tokenizer {input.tokenizer:q} {params.judged} --name {wildcards.test_set:q} --output {output:q} &> {log:q}"
