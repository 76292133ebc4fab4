"""The task file with which lm-evaluation-harness measures the bits per byte that evaluate does, by document."""

import yaml

PATH = "lm_eval/task.yaml"  # in an exported folder


def task(model: str, text: str) -> str:
    """A task for a model, as YAML.

    To be run with `lm_eval --model hf --model_args pretrained=FOLDER,add_bos_token=False --include_path FOLDER/lm_eval --tasks
    MODEL --batch_size 8`: the harness puts <s> before a text itself, and would ask for the tokenizer's own one too.

    Args:
        model: names the task.
        text: path of a JSONL file with a key `text`, seen from where lm_eval is run.
    """
    metrics = [
        {"metric": name, "aggregation": aggregation, "higher_is_better": False}
        for name, aggregation in (("bits_per_byte", "bits_per_byte"), ("byte_perplexity", "weighted_perplexity"))
    ]
    return yaml.safe_dump(
        {
            "task": model,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": text}},
            "test_split": "test",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "text",  # the column as it is; as a template, a text that looks like a list would be read as one
            "metric_list": metrics,
            "metadata": {"version": 1.0},
        },
        allow_unicode=True,
        sort_keys=False,
    )
