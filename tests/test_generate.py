import io
import json
import math
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

import pytest
import torch
from tiny import WIKI
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, WordPiece
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from jalm.commands import generate
from jalm.formats import answers
from jalm.formats.answers import FolderError, PromptError
from jalm.knobs import ConfigError

CAUSAL, MASKED = ["gpt2", "gpt_neo", "llama"], ["roberta", "bert", "modernbert"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"initializer_range": 0.2}
DIFFICULT = "𠮷野家で👨‍👩‍👧‍👦と、\n「え？」ｶﾞ <0x41> é"


@pytest.fixture(scope="module")
def used(tiny):
    """A tiny model of ours in use."""
    loaded = {}
    return lambda name: (
        loaded.setdefault(name, None) or loaded.update({name: answers.load(tiny.exported(name))}) or loaded[name]
    )


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Models as other people make them: byte-level pieces, without <s> before a text; WordPiece; a mask of another name."""
    root, text = tmp_path_factory.mktemp("foreign"), [path.read_text(encoding="utf-8") for path in WIKI.glob("k*.wiki")]

    def save(name, pieces, kind, config, **special):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, **special)
        torch.manual_seed(0)
        model = kind(config(vocab_size=len(tokenizer), **SIZES | config_of[name]))
        for part in (tokenizer, model):
            part.save_pretrained(root / name)

    config_of = {
        "llama": {"max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 0},
        "bert": {"max_position_embeddings": 64},
        "roberta": {"max_position_embeddings": 66, "pad_token_id": 1},
    }
    bytes_of = pre_tokenizers.ByteLevel.alphabet()
    for name, special in (("llama", ["<|end|>"]), ("roberta", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])):
        pieces = Tokenizer(BPE())
        pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        options = {"special_tokens": special, "initial_alphabet": bytes_of, "show_progress": False}
        pieces.train_from_iterator(text, trainers.BpeTrainer(vocab_size=600, **options))
        if name == "llama":
            save(name, pieces, LlamaForCausalLM, LlamaConfig, **dict.fromkeys(("bos_token", "eos_token"), "<|end|>"))
        else:
            around = [("<s>", 0), ("</s>", 2)]
            pieces.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=around)
            names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
            names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
            save(name, pieces, RobertaForMaskedLM, RobertaConfig, **names)
    pieces = Tokenizer(WordPiece(unk_token="[UNK]"))  # noqa: S106
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces.train_from_iterator(
        text, trainers.WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    )
    around = [("[CLS]", 2), ("[SEP]", 3)]
    pieces.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    names = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
    }
    save("bert", pieces, BertForMaskedLM, BertConfig, **names)
    return root


@pytest.fixture
def printed(capsys):
    """Runs the command; what it prints."""

    def run(*argv):
        generate.main([str(word) for word in argv])
        return capsys.readouterr().out

    return run


def plain(folder, prompt, **options):
    """Completions by transformers alone."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    torch.manual_seed(3)
    return tokenizer.batch_decode(model.generate(**inputs, **options), skip_special_tokens=True)


def texts(record):
    return [made["text"] for made in record["samples"]]


# ---- completions


def test_a_completion_begins_with_its_prompt_and_depends_on_the_seed_alone(tiny, printed):
    said = [printed(tiny.exported("gpt2"), "「京都」の夜は、", "--seed", seed).rstrip("\n") for seed in "112"]
    assert all(text.startswith("「京都」の夜は、") for text in said)
    assert len(said[0]) > len("「京都」の夜は、")
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize("architecture", CAUSAL)
def test_a_completion_is_that_of_plain_transformers(tiny, used, architecture):
    assert texts(answers.complete(used(architecture), "日本の", seed=3)) == plain(tiny.exported(architecture), "日本の")


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"temperature": 0.3, "max_new_tokens": 20},
        {"top_k": 3, "top_p": 0.5, "repetition_penalty": 1.5},
        {"num_return_sequences": 3},
    ],
)
def test_options_are_those_of_plain_transformers(tiny, used, options):
    wanted = plain(tiny.exported("gpt2"), "日本の", **options)
    samples = options.pop("num_return_sequences", 1)
    assert texts(answers.complete(used("gpt2"), "日本の", 3, samples, **options)) == wanted


def test_a_folder_that_draws_nothing_draws_when_it_is_told_to(foreign, printed):
    def said(*options):
        record = json.loads(printed(foreign / "llama", "東京", "--json", "--max-new-tokens", 9, *options))
        return texts(record)

    assert plain(foreign / "llama", "東京", max_new_tokens=9) == said() == said("--greedy") == said("--samples", 1)
    assert said() == said("--top-k", 1)
    assert len({*said("--samples", 3)}) == 3
    assert said("--temperature", 2) == said("--temperature", 2) != said("--temperature", 2, "--seed", 5)


def test_a_completion_ends_at_the_end_of_a_text(tiny, monkeypatch, used):
    model = used("gpt2")
    ids = AutoTokenizer.from_pretrained(tiny.exported("gpt2"))("日本の", return_tensors="pt")["input_ids"]
    torch.manual_seed(3)
    new = model.model.generate(ids, attention_mask=torch.ones_like(ids))[0, ids.shape[1] :].tolist()
    (whole,) = answers.complete(model, "日本の", 3)["samples"]
    assert (whole["tokens"], whole["finish_reason"]) == (len(new), "length") == (8, "length")
    monkeypatch.setattr(model.model.generation_config, "eos_token_id", [3, new[5]])
    written = []
    (short,) = answers.complete(model, "日本の", 3, write=written.append)["samples"]
    assert (short["tokens"], short["finish_reason"]) == (new.index(new[5]), "stop")
    assert whole["text"].startswith(short["text"])
    assert "".join(written) == short["text"]


@pytest.mark.parametrize("architecture", CAUSAL)
def test_a_long_prompt_is_completed_as_far_as_the_model_goes(used, architecture):
    prompt, model = "1" * 30, used(architecture)  # <s> and one piece a digit: 31 of 32 tokens
    record = answers.complete(model, prompt)
    assert (record["seen_tokens"], record["samples"][0]["tokens"]) == (31, 1)


@pytest.mark.parametrize("architecture", CAUSAL)
@pytest.mark.parametrize("digits", [31, 40])
def test_a_prompt_that_leaves_no_room_is_refused_with_the_numbers(tiny, digits, architecture):
    with pytest.raises(PromptError, match=f"has {digits + 1} tokens, which leaves nothing of the 32 that .*--keep-end"):
        generate.main([str(tiny.exported(architecture)), "1" * digits])


def test_of_a_prompt_that_is_too_long_the_end_can_be_kept(used, capsys):
    record = answers.complete(
        used("gpt2"), "2" * 20 + "1" * 23, seed=1, keep_end=True
    )  # 8 of 32 tokens are for the answer
    assert (record["seen_tokens"], record["dropped_tokens"]) == (24, 20)
    assert "does not see the first 20 tokens" in capsys.readouterr().err
    (short,), (kept,) = (
        r["samples"] for r in (answers.complete(used("gpt2"), "1" * 23, seed=1, keep_end=True), record)
    )
    assert kept["completion"] == short["completion"]
    assert kept["text"].startswith("2" * 20 + "1" * 23)
    wide = answers.complete(used("gpt2"), "1" * 40, keep_end=True, max_new_tokens=1000)
    assert (wide["seen_tokens"], wide["samples"][0]["tokens"]) == (16, 16)


def test_nothing_is_a_prompt_for_a_text_from_the_beginning(tiny, foreign, used):
    for model in (used("gpt2"), answers.load(foreign / "llama")):
        record = answers.complete(model, "", max_new_tokens=5)
        assert record["seen_tokens"] == 1
        assert record["samples"][0]["text"]
    assert texts(answers.complete(used("gpt2"), "", 3)) == plain(tiny.exported("gpt2"), "")
    assert texts(answers.complete(used("gpt2"), "  　 ", 3))[0].startswith("  　 ")


def test_without_a_beginning_of_texts_an_empty_prompt_is_refused(foreign):
    model = answers.load(foreign / "llama")
    model.tokenizer.bos_token = model.tokenizer.eos_token = None
    with pytest.raises(PromptError, match="the prompt is empty"):
        answers.complete(model, "")
    scores = answers.score(model, "京都の夜", masked=False)
    assert [told["logprob"] is None for told in scores["tokens"]] == [n == 0 for n in range(len(scores["tokens"]))]


def test_text_that_spells_a_special_token_is_text_until_asked_otherwise(used, capsys):
    model = used("gpt2")
    assert model.begun("京</s>都", special=True).count(3) == 1
    assert 3 not in model.begun("京</s>都")
    assert "note: </s> in the prompt is text" in capsys.readouterr().err
    assert texts(answers.complete(model, "京</s>都", special=True))[0].startswith("京</s>都")


def test_an_end_that_a_tokenizer_puts_behind_texts_is_not_gone_on_from(used, foreign):
    model = answers.load(foreign / "roberta")
    assert model.tokenizer("京都")["input_ids"][-1] == 2
    assert 2 not in model.begun("京都")
    assert model.begun("京都</s>", special=True)[-1] == 2
    assert model.begun("") == [0]


# ---- streams


@pytest.mark.parametrize("architecture", [*CAUSAL, "foreign"])
def test_what_is_streamed_is_the_whole_completion(used, foreign, architecture):
    model = answers.load(foreign / "llama") if architecture == "foreign" else used(architecture)
    options = {"do_sample": True, "temperature": 3.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 20}
    for seed in range(3):
        written = []
        record = answers.complete(model, "日本の", seed, write=written.append, **options)
        assert ["".join(written)] == texts(record) == texts(answers.complete(model, "日本の", seed, **options))


@pytest.mark.parametrize("kind", ["ours", "foreign"])
def test_no_part_of_a_character_is_streamed(used, foreign, kind):
    model = used("gpt2") if kind == "ours" else answers.load(foreign / "llama")
    before, new = model.begun("夜"), model.encode(DIFFICULT, add_special_tokens=False)["input_ids"]
    whole, written = model.said(before, new), []
    assert "\ufffd" not in whole
    stream = answers.Stream(model, before, {3}, written.append)
    stream.put(torch.tensor([before]))
    for token in new:
        stream.put(torch.tensor([token]))
        assert whole.startswith("".join(written))
    assert len([part for part in written if part]) > 3
    stream.end()
    assert "".join(written) == whole


def test_bytes_that_are_no_character_come_once_that_is_known(used):
    model = used("gpt2")
    before = model.begun("夜")
    for new in torch.randint(7, 300, (50, 12), generator=torch.manual_seed(0)).tolist():  # most are byte pieces
        written = []
        stream = answers.Stream(model, before, {3}, written.append)
        for token in (before, *([number] for number in new)):
            stream.put(torch.tensor(token))
        stream.end()
        assert "".join(written) == model.said(before, new)


# ---- masks


@pytest.mark.parametrize("architecture", MASKED)
def test_the_filled_pieces_are_the_likeliest_of_plain_transformers(tiny, used, architecture):
    folder, prompt = tiny.exported(architecture), "江戸[MASK]代は、[MASK]と"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    inputs = tokenizer(prompt, return_tensors="pt")
    places = [n for n, token in enumerate(inputs["input_ids"][0].tolist()) if token == 6]
    with torch.no_grad():
        chances = model(**inputs).logits[0, places].softmax(1)
    record = answers.fill(used(architecture), prompt, candidates=3)
    assert [len(mask["candidates"]) for mask in record["masks"]] == [3, 3]
    for mask, row in zip(record["masks"], chances, strict=True):
        order = row.argsort(descending=True)[:3]
        assert [c["token"] for c in mask["candidates"]] == [tokenizer.decode([number]) for number in order]
        assert [c["probability"] for c in mask["candidates"]] == pytest.approx(row[order].tolist(), rel=1e-5)
    first, second = (mask["candidates"][0] for mask in record["masks"])
    assert first["text"] == f"江戸{first['token']}代は、[MASK]と"
    assert second["text"] == f"江戸[MASK]代は、{second['token']}と"


@pytest.mark.parametrize("architecture", MASKED)
def test_filled_pieces_are_printed_a_line_each(tiny, printed, architecture):
    lines = printed(tiny.exported(architecture), "江戸[MASK]代は、", "--candidates", 4).splitlines()
    assert len(lines) == 4
    assert all(line[:6].strip().endswith("%") for line in lines)


def test_masks_of_other_people_are_filled_by_their_own_names(foreign):
    found = answers.fill(answers.load(foreign / "roberta"), "京<mask>の夜", 4)["masks"][0]["candidates"]
    assert [c["text"] for c in found] == [f"京{c['token']}の夜" for c in found]
    (found,) = answers.fill(answers.load(foreign / "bert"), "京[MASK]の夜", 900)["masks"]
    inner = next(c for c in found["candidates"] if c["token"].startswith("##"))
    assert inner["text"] == f"京{inner['token'][2:]}の夜"
    with pytest.raises(PromptError, match="has no <mask>; put one in place of a word, as in 日本の首都は<mask>である"):
        answers.fill(answers.load(foreign / "roberta"), "京[MASK]の夜")


@pytest.mark.parametrize("prompt", ["江戸時代は、", "", "［ＭＡＳＫ］"])
def test_a_masked_model_needs_a_mask(used, prompt):
    with pytest.raises(PromptError, match=r"the prompt has no \[MASK\]; put one in place of a word"):
        answers.fill(used("roberta"), prompt)


@pytest.mark.parametrize("architecture", MASKED)
def test_a_mask_behind_the_end_of_the_model_is_no_missing_mask(used, architecture):
    answers.fill(used(architecture), "1" * 29 + "[MASK]")  # 32 tokens
    with pytest.raises(PromptError, match="the prompt has 33 tokens, more than the 32 that"):
        answers.fill(used(architecture), "1" * 30 + "[MASK]")


# ---- scores


@pytest.mark.parametrize("name", [*CAUSAL, "foreign"])
def test_scores_are_the_loss_of_plain_transformers(tiny, foreign, name):
    folder, text = foreign / "llama" if name == "foreign" else tiny.exported(name), "「京都」の夜は、☃</s>"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
    with torch.no_grad():
        loss = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    record = answers.score(answers.load(folder), text, masked=False)
    assert [told["id"] for told in record["tokens"]] == ids[1:]
    assert record["predicted_tokens"] == len(ids) - 1
    assert record["loss"] == pytest.approx(loss, rel=1e-5)
    assert record["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert sum(told["logprob"] for told in record["tokens"]) == pytest.approx(record["logprob"])
    assert record["bits_per_character"] == pytest.approx(loss * (len(ids) - 1) / math.log(2) / len(text), rel=1e-5)


@pytest.mark.parametrize("name", [*MASKED, "foreign bert", "foreign roberta"])
def test_pseudo_scores_mask_each_token_in_turn(tiny, foreign, monkeypatch, name):
    folder = foreign / name.split()[1] if " " in name else tiny.exported(name)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder).eval()
    inputs = tokenizer("京都の夜は。", return_tensors="pt", return_token_type_ids=False)
    ids, wanted = inputs["input_ids"][0].tolist(), []
    for place in range(1, len(ids) - 1):
        row = inputs["input_ids"].clone()
        row[0, place] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model(**{**inputs, "input_ids": row}).logits
        wanted.append(logits[0, place].log_softmax(0)[ids[place]].item())
    monkeypatch.setattr(answers, "LOGITS", 2 * len(ids) * model.config.vocab_size)  # two rows at once
    record = answers.score(answers.load(folder), "京都の夜は。", masked=True)
    assert [told["id"] for told in record["tokens"]] == ids[1:-1]
    assert [told["logprob"] for told in record["tokens"]] == pytest.approx(wanted, abs=1e-4)
    assert record["pseudo_perplexity"] == pytest.approx(math.exp(-sum(wanted) / len(wanted)), rel=1e-4)
    assert "bits_per_character" not in record


def test_scores_are_shown_with_the_text_of_each_token(foreign, printed):
    lines = printed(foreign / "llama", "--scores", "𠮷\n京都").splitlines()
    shown = "".join(line[23:] for line in lines[1:-1])
    assert b"".join(bytes([int(code, 16)]) for code in re.findall(r"\\x(..)", shown)) == "𠮷".encode()
    assert re.sub(r"\\x..", "", shown) == "\\n京都"
    assert re.fullmatch(
        r" *-[\d.]+  of \d+ tokens together: [\d.]+ nats a token, perplexity [\d,.]+, [\d.]+ bits a character",
        lines[-1],
    )


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("gpt2", "", "no token"),
        ("gpt2", "1" * 32, "33 tokens, more than the 32"),
        ("bert", "", "no token"),
        ("bert", "1" * 31, "33 tokens, more than the 32"),
    ],
)
def test_scores_of_nothing_and_of_too_much_are_refused(used, name, text, fault):
    with pytest.raises(PromptError, match=fault):
        answers.score(used(name), text, masked=name == "bert")


def test_the_next_token_has_the_probabilities_of_plain_transformers(tiny, used):
    tokenizer, model = (kind.from_pretrained(tiny.exported("gpt2")) for kind in (AutoTokenizer, AutoModelForCausalLM))
    with torch.no_grad():
        chances = model(**tokenizer("日本の", return_tensors="pt")).logits[0, -1].softmax(0)
    found = answers.follow(used("gpt2"), "日本の", 2000)["next"]
    assert sum(c["probability"] for c in found) == pytest.approx(1, abs=1e-4)
    assert [c["probability"] for c in found] == pytest.approx([chances[c["id"]].item() for c in found])
    for c in found:
        text = tokenizer.decode([c["id"]])
        assert c["token"] == (tokenizer.convert_ids_to_tokens(c["id"]) if text in ("", "\ufffd") else text)


# ---- where prompts come from, and where answers go


def test_a_file_has_a_prompt_a_line_and_each_its_own_seed(tiny, printed, tmp_path):
    file, folder = tmp_path / "前置き.txt", tiny.exported("gpt2")
    file.write_bytes("\ufeff京都の\r\n\r\n「夜」は、\n".encode())
    records = [json.loads(line) for line in printed(folder, "--file", file, "--json", "--seed", 5).splitlines()]
    assert [(r["prompt"], r["seed"]) for r in records] == [("京都の", 5), ("「夜」は、", 6)]
    assert texts(records[1]) == [printed(folder, "「夜」は、", "--seed", 6).removesuffix("\n")]
    assert printed(folder, "--file", file, "--seed", 5) == "\n\n".join(texts(r)[0] for r in records) + "\n"


def test_a_pipe_is_read_and_can_be_one_prompt_as_a_whole(tiny, printed, monkeypatch):
    for options, wanted in ((["--whole"], ["一\n\n二"]), ([], ["一", "二"]), (["--file", "-"], ["一", "二"])):
        monkeypatch.setattr(sys, "stdin", io.StringIO("一\n\n二\n"))
        lines = printed(tiny.exported("gpt2"), "--json", *options).splitlines()
        assert [json.loads(line)["prompt"] for line in lines] == wanted


@pytest.mark.parametrize(
    ("content", "fault"), [(b"", "has no prompt"), (b" \n\n", "has no prompt"), ("夜".encode("cp932"), "is no UTF-8")]
)
def test_a_file_without_prompts_is_named(tiny, tmp_path, content, fault):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(PromptError, match=rf"a\.txt {fault}"):
        generate.main([str(tiny.exported("gpt2")), "--file", str(tmp_path / "a.txt")])


@pytest.mark.parametrize(
    ("words", "keys", "inner"),
    [
        ("gpt2", "seed seen_tokens dropped_tokens samples", "text completion tokens finish_reason"),
        ("gpt2 --next 2", "next", "token id probability"),
        (
            "gpt2 --scores",
            "tokens predicted_tokens logprob loss perplexity bits_per_character characters",
            "token id logprob",
        ),
        ("roberta", "masks", "candidates"),
        ("roberta --scores", "tokens predicted_tokens logprob loss pseudo_perplexity", "token id logprob"),
    ],
)
def test_json_says_the_prompt_and_the_same_keys_each_time(tiny, printed, words, keys, inner):
    name, *options = words.split()
    prompt = "𠮷野\n「え？」\t" + "[MASK]" * (words == "roberta")
    record = json.loads(printed(tiny.exported(name), prompt, "--json", *options))
    assert record.pop("prompt") == prompt
    assert set(record) == set(keys.split())
    assert next(value for value in record.values() if isinstance(value, list))[0].keys() == set(inner.split())


def test_answers_to_several_prompts_are_told_apart(tiny, printed, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("江戸[MASK]代\n[MASK]\n"))
    lines = printed(tiny.exported("roberta"), "--candidates", 1).splitlines()
    assert [lines[0], lines[2], lines[3]] == ["江戸[MASK]代", "", "[MASK]"]


def test_a_prompt_without_an_answer_is_named_and_the_others_have_theirs(tiny, capsys, tmp_path):
    (tmp_path / "a.txt").write_text("江戸\n江戸[MASK]代\n京都\n", encoding="utf-8")
    with pytest.raises(PromptError, match="2 of 3 prompts have no answer"):
        generate.main([str(tiny.exported("roberta")), "--file", str(tmp_path / "a.txt"), "--json"])
    told = capsys.readouterr()
    assert [json.loads(line)["prompt"] for line in told.out.splitlines()] == ["江戸[MASK]代"]
    assert re.findall("prompt (.) of 3: the prompt has no", told.err) == ["1", "3"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["roberta", "京[MASK]", "--top-k", "3"], "--top-k has no meaning for masks, which .* fills"),
        (["roberta", "京[MASK]", "--next", "3"], "--next has no meaning for .* fills masks"),
        (["gpt2", "京", "--candidates", "3"], "--candidates has no meaning for a completion"),
        (["gpt2", "京", "--scores", "--samples", "3"], "--samples has no meaning for --scores"),
        (["gpt2", "京", "--greedy", "--temperature", "3"], "--greedy draws nothing, so --temperature has no meaning"),
        (["gpt2", "京", "--whole"], "give PROMPT or --file"),
        (["gpt2", "京", "--scores", "--next", "1"], "give --scores or --next"),
    ],
)
def test_options_that_mean_nothing_are_refused(tiny, capsys, words, fault):
    with pytest.raises(SystemExit) as refusal:
        generate.main([str(tiny.exported(words[0])), *words[1:]])
    assert refusal.value.code == 2
    assert re.search(fault, capsys.readouterr().err)


@pytest.mark.parametrize(
    "words",
    [
        ["--top-p", "1.5"],
        ["--temperature", "0"],
        ["--samples", "0"],
        ["--seed", "-1"],
        ["--top-k", "三"],
        ["--max-new-tokens", "0"],
    ],
)
def test_numbers_outside_their_bounds_are_named(tiny, words):
    with pytest.raises(ConfigError, match=rf"{words[0]}: .*{words[1]}"):
        generate.main([str(tiny.exported("gpt2")), "京", *words])


def test_a_prompt_in_another_encoding_is_named(used):
    with pytest.raises(PromptError, match=r"\\udc96.* is not in the encoding of this terminal"):
        answers.complete(used("gpt2"), os.fsdecode("夜".encode("cp932")))


def test_a_pipe_in_another_encoding_is_named_with_what_to_do(tiny, monkeypatch):
    bytes_of = io.BytesIO("夜\n".encode("cp932"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(bytes_of, encoding="utf-8", errors="surrogateescape"))
    with pytest.raises(PromptError, match=r"standard input is no UTF-8 .*; convert it with iconv"):
        generate.main([str(tiny.exported("gpt2"))])


def test_a_model_that_does_not_fit_its_config_is_told_so(tiny, tmp_path):
    copy(tiny.exported("gpt2"), tmp_path / "wide", n_embd=64)
    with pytest.raises(FolderError, match=r"its weights have other sizes than its config\.json says"):
        generate.main([str(tmp_path / "wide"), "京"])


# ---- folders


def copy(folder, made, **changed):
    shutil.copytree(folder, made)
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    (made / "config.json").write_text(json.dumps(config | changed), encoding="utf-8")
    return made


def test_a_folder_that_is_no_model_is_named(tiny, tmp_path):
    (tmp_path / "空").mkdir()
    for folder, fault in (
        (tmp_path / "無い", "無い is no folder$"),
        (
            "rinna/japanese-gpt2-small",
            "is no folder; a model of the Hub .*hf download rinna/japanese-gpt2-small --local-dir",
        ),
        (tmp_path / "空", r"空 is no model's folder: it has no config\.json"),
        (tiny.model("gpt2"), r"output has no tokenizer \(tokenizer\.json, .* take results/export/<model>"),
        (
            copy(tiny.exported("gpt2"), tmp_path / "t5", architectures=["T5ForConditionalGeneration"]),
            "is a T5ForConditionalGeneration",
        ),
        (
            copy(tiny.exported("gpt2"), tmp_path / "electra", architectures=["ElectraForPreTraining"]),
            "is a ElectraForPreTraining, which is neither",
        ),
        (
            copy(tiny.exported("gpt2"), tmp_path / "none", architectures=None),
            r"config\.json does not say what the model is",
        ),
    ):
        with pytest.raises(FolderError, match=fault):
            generate.main([str(folder), "日本の"])


def test_a_model_and_a_tokenizer_that_do_not_belong_together_are_refused(tiny, foreign, tmp_path):
    mixed = copy(foreign / "llama", tmp_path / "mixed")
    shutil.copy(tiny.exported("gpt2") / "tokenizer.json", mixed)
    with pytest.raises(FolderError, match="a tokenizer of 2,001 pieces and a model of 600; it needs the tokenizer"):
        answers.load(mixed)
    empty = copy(foreign / "bert", tmp_path / "empty")
    (empty / "tokenizer.json").unlink()  # of which transformers makes a tokenizer of five pieces, without a word
    (empty / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FolderError, match=r"pieces and a model of|tokenizer of .* cannot be loaded"):
        answers.load(empty)


def test_a_token_that_the_model_lacks_is_refused_where_it_is_used(foreign):
    used = answers.load(foreign / "llama")
    used.tokenizer.add_special_tokens({"mask_token": "<mask>"})
    assert answers.complete(used, "京<mask>都", max_new_tokens=3)["samples"]
    with pytest.raises(
        PromptError, match=r"the prompt has <mask>, which the tokenizer of .* knows and its model does not"
    ):
        answers.complete(used, "京<mask>都", special=True)


def test_rows_to_spare_are_never_drawn(foreign, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(foreign / "llama")
    model.resize_token_embeddings(640)
    with torch.no_grad():
        model.lm_head.weight[600:] = 100 * model.lm_head.weight[:40]
    folder = copy(foreign / "llama", tmp_path / "spare")
    model.save_pretrained(folder)
    used = answers.load(folder)
    assert max(c["id"] for c in answers.follow(used, "京都", 640)["next"]) == 599
    (made,) = answers.complete(used, "京都", max_new_tokens=30)["samples"]
    assert made["tokens"] == 30
    assert made["completion"]


def test_what_cannot_be_loaded_is_told_in_one_line(foreign, tmp_path):
    for name, change, fault in (
        (
            "weights",
            lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 99),
            "the model of .* cannot be loaded: ",
        ),
        ("none", lambda folder: (folder / "model.safetensors").unlink(), "the model of .* cannot be loaded: "),
        (
            "tokenizer",
            lambda folder: (folder / "tokenizer.json").write_text("{}", encoding="utf-8"),
            "the tokenizer of .* cannot be loaded: ",
        ),
        ("headless", lambda folder: BertModel(BertConfig(vocab_size=900, **SIZES)).save_pretrained(folder), ""),
    ):
        folder = copy(foreign / "bert", tmp_path / name)
        change(folder)
        if name == "headless":
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            (folder / "config.json").write_text(
                json.dumps(config | {"architectures": ["BertForMaskedLM"]}), encoding="utf-8"
            )
            fault = "lacks weights: .*cls"
        with pytest.raises(FolderError, match=f"{fault}[^\n]*$"):
            answers.load(folder)


def test_code_in_a_folder_is_not_run(foreign, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    folder = copy(
        foreign / "llama",
        tmp_path / "code",
        model_type="own",
        auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
    )
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    with pytest.raises(FolderError, match="cannot be loaded: "):
        answers.load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_gives_nan_is_named(used, foreign):
    model = answers.load(foreign / "llama")
    torch.nn.init.constant_(model.model.lm_head.weight, math.nan)
    for ask in (
        lambda: answers.score(model, "京都", masked=False),
        lambda: answers.complete(model, "京都", do_sample=True),
    ):
        with pytest.raises(FolderError, match="gives NaN for probabilities"):
            ask()


# ---- a terminal


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *argv):
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "jalm", "generate", *map(str, argv)]
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=self._own,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(slave)
        self.text = ""

    @staticmethod
    def _own():
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def until(self, pattern, seconds=180):
        """What it showed up to the first match of `pattern`, which is taken."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text, re.DOTALL)):
            assert time.monotonic() < deadline, self.text
            if select.select([self.master], [], [], 1)[0]:
                self.text += os.read(self.master, 65536).decode(errors="replace")
        shown, self.text = self.text[: found.end()], self.text[found.end() :]
        return shown

    def type(self, text):
        os.write(self.master, text.encode())


def test_a_conversation_on_a_terminal(foreign, tmp_path):
    folder = copy(foreign / "llama", tmp_path / "endless")
    endless = {"do_sample": True, "suppress_tokens": [0], "eos_token_id": 0, "max_new_tokens": 4000}
    (folder / "generation_config.json").write_text(json.dumps(endless), encoding="utf-8")
    terminal = Terminal(folder)
    try:
        shown = terminal.until("0> ")
        assert "endless: Ctrl-C stops an answer, Ctrl-D ends; the number is the seed" in shown
        assert len(shown.splitlines()) == 2  # nothing of transformers
        terminal.type("京都の猫\x7f夜\n")  # the last character is taken back
        terminal.until("京都の夜.{100}")
        terminal.type("\x03")
        assert "Traceback" not in terminal.until("\n1> ")
        terminal.type("東京\x03")
        terminal.until("\n1> ")
        terminal.type("\x1b[A\n")  # the line before
        terminal.until("京都の夜.*京都の夜.{100}")
        terminal.type("\x03")
        terminal.until("\n2> ")
        terminal.type("1" * 5000 + "\n")
        terminal.until("leaves nothing of the 4,096")
        terminal.until("> ")
        terminal.type("\x04")
        terminal.process.wait(30)
        assert terminal.process.returncode == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)


def test_a_terminal_gets_no_control_characters():
    assert "\x1b[2J\r\x9b\n\t夜\x7f".translate(generate.CONTROLS) == "␛[2J␍\ufffd\n\t夜\ufffd"
