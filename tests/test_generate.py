import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from jalm.commands import generate
from jalm.commands.generate import PromptError


def test_a_completion_begins_with_its_prompt_and_depends_on_the_seed_alone(tiny, capsys):
    said = []
    for seed in ("1", "1", "2"):
        generate.main([str(tiny.exported("gpt2")), "「京都」の夜は、", "--seed", seed])
        said.append(capsys.readouterr().out.rstrip("\n"))
    assert all(text.startswith("「京都」の夜は、") for text in said)
    assert len(said[0]) > len("「京都」の夜は、")
    assert said[0] == said[1] != said[2]


def test_a_completion_is_that_of_plain_transformers(tiny):
    folder = tiny.exported("gpt2")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(3)
    ids = model.generate(**tokenizer("日本の", return_tensors="pt"))[0]
    assert generate.complete(folder, "日本の", seed=3) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_long_prompt_is_completed_as_far_as_the_model_goes(tiny):
    prompt = "1" * 30  # <s> and one piece a digit: 31 of 32 tokens
    tokenizer = AutoTokenizer.from_pretrained(tiny.exported("gpt2"))
    assert len(tokenizer(prompt)["input_ids"]) == 31
    said = generate.complete(tiny.exported("gpt2"), prompt, seed=0)
    assert said.startswith(prompt)
    assert len(tokenizer(said)["input_ids"]) <= 32


def test_the_filled_pieces_are_the_likeliest_of_plain_transformers(tiny):
    folder, prompt = tiny.exported("roberta"), "江戸[MASK]代は、"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    inputs = tokenizer(prompt, return_tensors="pt")
    place = inputs["input_ids"][0].tolist().index(6)
    with torch.no_grad():
        chances = model(**inputs).logits[0, place].softmax(0)
    order = chances.argsort(descending=True)[:3]
    filled = generate.fill(folder, prompt, candidates=3)
    assert [piece for piece, _ in filled] == [tokenizer.decode([number]) for number in order]
    assert [chance for _, chance in filled] == pytest.approx(chances[order].tolist(), rel=1e-5)


def test_filled_pieces_are_printed_a_line_each(tiny, capsys):
    generate.main([str(tiny.exported("roberta")), "江戸[MASK]代は、", "--candidates", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(line[:6].strip().endswith("%") for line in lines)


@pytest.mark.parametrize(
    ("prompt", "masks"), [("江戸時代は、", 0), ("", 0), ("[MASK]戸[MASK]代", 2), ("［ＭＡＳＫ］", 0)]
)
def test_a_masked_model_needs_exactly_one_mask(tiny, prompt, masks):
    with pytest.raises(PromptError, match=rf"the prompt has {masks} \[MASK\] where a masked model needs one"):
        generate.main([str(tiny.exported("roberta")), prompt])


@pytest.mark.parametrize("digits", [31, 40])
def test_a_prompt_that_leaves_no_room_is_refused_with_the_numbers(tiny, digits):
    with pytest.raises(PromptError, match=f"the prompt has {digits + 1} tokens, which leaves nothing of the 32 that"):
        generate.main([str(tiny.exported("gpt2")), "1" * digits])


def test_a_mask_behind_the_end_of_the_model_is_no_missing_mask(tiny):
    with pytest.raises(PromptError, match="the prompt has 43 tokens, more than the 32 that"):
        generate.main([str(tiny.exported("roberta")), "1" * 40 + "[MASK]"])


def test_a_folder_that_is_no_exported_model_is_named(tiny, tmp_path):
    with pytest.raises(PromptError, match=r"無い is no exported model: it has no config\.json"):
        generate.main([str(tmp_path / "無い"), "日本の"])
    with pytest.raises(PromptError, match=r"output is no exported model: it has no tokenizer\.json"):
        generate.main([str(tiny.model("gpt2")), "日本の"])
