import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from jalm import provenance
from jalm.formats import outsider

REQUEST = {"texts": [], "ids": [], "compared": [], "length": 32, "prompts": [], "seed": 0}


def observed(folder, trained, task: str, **asked) -> dict:
    return outsider.observe({**REQUEST, "folder": str(folder), "trained": str(trained), "task": task, **asked})


def test_it_knows_nothing_of_ours():
    with open(outsider.__file__, encoding="utf-8") as source:
        assert provenance.imports(source.read()) == set()


def test_it_sees_the_ids_and_texts_that_transformers_gives(tiny):
    texts = ["京都の「夜」は、１０℃。", "本文に[MASK]や</s>", ""]
    told = {"texts": texts, "ids": [[100, 101], []]}
    seen = observed(tiny.exported("gpt2"), tiny.model("gpt2"), "text-generation", **told)
    tokenizer = AutoTokenizer.from_pretrained(tiny.exported("gpt2"))
    assert seen["ids"] == [tokenizer(text)["input_ids"] for text in texts]
    assert seen["decoded"] == [tokenizer.decode([100, 101]), ""]


def test_a_prompt_is_answered_the_same_each_time(tiny):
    once, again = (
        observed(tiny.exported("gpt2"), tiny.model("gpt2"), "text-generation", prompts=["夜の", "東京"])
        for _ in range(2)
    )
    assert once["samples"] == again["samples"]
    assert [sample["prompt"] for sample in once["samples"]] == ["夜の", "東京"]


def test_the_text_around_a_mask_is_told(tiny):
    seen = observed(tiny.exported("roberta"), tiny.model("roberta"), "fill-mask", prompts=["夜の[MASK]が、"])
    (sample,) = seen["samples"]
    assert sample["around"] == ["夜の", "が、"]
    assert len(sample["candidates"]) == 5
    assert sum(candidate["probability"] for candidate in sample["candidates"]) < 1


@pytest.mark.parametrize("text", ["夜", "長い文章。" * 100])
def test_a_weight_that_was_changed_shows_in_the_logits(tiny, tmp_path, text):
    changed = GPT2LMHeadModel.from_pretrained(tiny.model("gpt2"))
    with torch.no_grad():
        changed.transformer.ln_f.bias[0] += 1e-3
    changed.save_pretrained(tmp_path)
    for trained, same in ((tiny.model("gpt2"), True), (tmp_path, False)):
        seen = observed(tiny.exported("gpt2"), trained, "text-generation", compared=[text])
        assert (seen["differences"] == [0.0]) == same
