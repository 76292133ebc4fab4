import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from jalm.config import Evaluate
from jalm.formats import documents
from jalm.stages import evaluate


def evaluated(tiny, architecture, output, **knobs) -> dict:
    options = {"model": tiny.model(architecture), "test": tiny.shards["test"], "name": "試験", "output": output}
    evaluate.main(tiny.arguments(Evaluate(**knobs), **options))
    return json.loads(output.read_text(encoding="utf-8"))


def test_figures_are_sums_divided_once():
    # 80 bits over 40 tokens, 20 characters of 3 bytes each
    figures = evaluate.report(80 * math.log(2), 40, 10, masked=False, text={"characters": 20, "bytes": 60})
    assert figures == pytest.approx(
        {
            "loss": 2 * math.log(2),
            "perplexity": 4.0,
            "accuracy": 0.25,
            "predicted_tokens": 40,
            "bits_per_character": 4.0,
            "bits_per_byte": 80 / 60,
        }
    )


def test_a_masked_model_has_no_bits_per_character():
    figures = evaluate.report(80 * math.log(2), 40, 10, masked=True, text={"characters": 20, "bytes": 60})
    assert set(figures) == {"loss", "perplexity", "accuracy", "predicted_tokens"}


def test_the_perplexity_of_a_trained_model_is_that_of_plain_transformers(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny.model("gpt2")).eval()
    tokens = np.concatenate([np.fromfile(tiny.shards["test"].parent / f"00{n}.bin", dtype="<u2") for n in (0, 1)])
    tokens, nats = torch.from_numpy(tokens.astype(np.int64)), 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 32):
            window = tokens[start : start + 33]
            logits = model(input_ids=window[None, :-1]).logits[0]
            nats += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    texts = [documents.text(document) for path in tiny.documents["test"] for document in documents.read(path)]
    record = json.loads(tiny.evaluation("gpt2").read_text(encoding="utf-8"))
    assert record["predicted_tokens"] == len(tokens) - 1 == record["tokens"] - 1
    assert record["perplexity"] == pytest.approx(math.exp(nats / (len(tokens) - 1)), rel=1e-4)
    assert record["bits_per_character"] == pytest.approx(nats / math.log(2) / sum(map(len, texts)), rel=1e-4)
    assert record["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(len(t.encode()) for t in texts), rel=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "roberta"])
def test_the_batch_size_changes_no_figure(tiny, tmp_path, architecture):
    small, large = (evaluated(tiny, architecture, tmp_path / str(n), batch_size=n) for n in (3, 50))
    numbers = {key: value for key, value in small.items() if not isinstance(value, str)}
    assert numbers == pytest.approx({key: large[key] for key in numbers}, rel=1e-4)


def test_a_masked_model_is_asked_the_same_each_time(tiny, tmp_path):
    first, second = (evaluated(tiny, "roberta", tmp_path / str(n)) for n in (1, 2))
    assert first == second
    assert (first["objective"], first["mlm_probability"]) == ("masked tokens", 0.15)


def test_the_share_of_masked_tokens_is_a_knob(tiny, tmp_path):
    record = evaluated(tiny, "roberta", tmp_path / "e", mlm_probability=0.5)
    special = 2 * record["documents"]
    assert record["predicted_tokens"] / (record["tokens"] - special) == pytest.approx(0.5, abs=0.03)


def test_figures_say_what_they_are_of(tiny):
    record = json.loads(tiny.evaluation("gpt2").read_text(encoding="utf-8"))
    summary = json.loads((tiny.root / "summary.json").read_text(encoding="utf-8"))
    assert (record["test_set"], record["objective"]) == ("wiki", "next token")
    assert {key: record[key] for key in summary["test"]} == summary["test"]


def test_a_test_set_of_which_nothing_is_predicted_is_refused(tiny, stream, tmp_path):
    files = {"model": tiny.model("gpt2"), "test": stream([2]), "name": "wiki", "output": tmp_path / "figures.json"}
    with pytest.raises(evaluate.EvaluationError, match="has 1 tokens, of which none is predicted"):
        evaluate.main(tiny.arguments(Evaluate(), **files))
    assert not (tmp_path / "figures.json").exists()
