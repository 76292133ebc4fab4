import io
import json
import math
import re
import shutil
import subprocess
import sys
import venv
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import others
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from jalm.config import Evaluate
from jalm.formats import documents, harness, models, scores, texts
from jalm.stages import evaluate

LINES = [
    "「え？」と彼は言った。\n『モーニング娘。』の曲が1,234,567円。",
    "猫",
    "東京は日本の首都である。" * 9,
    "[MASK]と</s>を書いた。",
]


def evaluated(tiny, architecture, output, **knobs) -> dict:
    options = {"model": tiny.model(architecture), "test": tiny.shards["test"], "name": "試験", "output": output}
    evaluate.main(tiny.arguments(Evaluate(**knobs), **options))
    return json.loads(output.read_text(encoding="utf-8"))


def of_text(folder, *options) -> dict:
    """Figures of a model on a text, by the command."""
    output = folder.parent / "figures.json"
    evaluate.main(["--model", str(folder), "--output", str(output), *map(str, options)])
    return json.loads(output.read_text(encoding="utf-8"))


@pytest.fixture
def text(tmp_path):
    """A file of documents."""
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES), encoding="utf-8")
    return path


def test_figures_are_sums_divided_once():
    # 80 bits over 40 tokens, 20 characters of 3 bytes each
    figures = evaluate.report(
        scores.Score(scores.Sums(80 * math.log(2), 40, 10)), masked=False, text={"characters": 20, "bytes": 60}
    )
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
    figures = evaluate.report(
        scores.Score(scores.Sums(80 * math.log(2), 40, 10)), masked=True, text={"characters": 20, "bytes": 60}
    )
    assert set(figures) == {"loss", "perplexity", "accuracy", "predicted_tokens"}


def test_pairs_are_reported_apart_from_tokens():
    score = scores.Score(scores.Sums(80 * math.log(2), 40, 10), scores.Sums(6 * math.log(2), 8, 5))
    figures = evaluate.report(score, masked=True, text={"characters": 20, "bytes": 60})
    assert figures["loss"] == 2 * math.log(2)
    assert (figures["nsp_loss"], figures["nsp_accuracy"], figures["pairs"]) == (0.75 * math.log(2), 5 / 8, 8)


def test_the_pairs_of_a_bert_are_in_its_figures_and_in_the_closing_line(tiny, tmp_path, caplog):
    with caplog.at_level("INFO"):
        record = evaluated(tiny, "bert", tmp_path / "e", measures=[])
    assert 0 < record["pairs"] < record["tokens"] / 5  # [CLS], [SEP] twice, and a token of each
    assert record["nsp_accuracy"] == round(record["nsp_accuracy"] * record["pairs"]) / record["pairs"]
    assert f"next sentence right in {record['nsp_accuracy']:.1%} of {record['pairs']} pairs" in caplog.messages[-1]


def test_plain_transformers_find_the_same_figures_of_an_exported_folder(tiny):
    """Another way to all of them: each document and the stream, tokenised by AutoTokenizer, window by window."""
    folder = tiny.exported("gpt2")
    tokenizer, gpt2 = (
        AutoTokenizer.from_pretrained(folder, split_special_tokens=True),
        AutoModelForCausalLM.from_pretrained(folder),
    )
    found = [documents.text(document) for path in tiny.documents["test"] for document in documents.read(path)]
    alone = [[2, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in found]
    stream = [number for ids in alone for number in [*ids, 3]]

    def nats(ids: list[int], size: int, step: int) -> float:
        """Of all tokens but the first, in windows; those that a window before has seen are not counted again."""
        total, done = 0.0, 0
        for begin in range(0, len(ids), step):
            end = min(begin + size, len(ids) - 1)
            begin = max(0, end - size) if step == size and begin else begin  # filled up with what is before
            if (new := end - done) > 0:
                with torch.no_grad():
                    logits = gpt2(input_ids=torch.tensor([ids[begin:end]])).logits[0].log_softmax(1)
                asked = torch.tensor(ids[begin + 1 : end + 1])[:, None]
                total -= logits.gather(1, asked)[-new:].sum().item()
                done = end
        return total

    record = json.loads(tiny.evaluation("gpt2").read_text(encoding="utf-8"))
    characters, in_bytes = sum(map(len, found)), sum(len(text.encode()) for text in found)
    blocks = [stream[begin : begin + 33] for begin in range(0, len(stream) - 1, 32)]
    for figures, total, count in (
        (record, sum(nats(ids, 32, 32) for ids in blocks), len(stream) - 1),
        (record["by_document"], sum(nats(ids, 32, 32) for ids in alone), sum(map(len, alone)) - len(alone)),
        (record["sliding"], nats(stream, 32, 16), len(stream) - 1),
    ):
        assert figures["predicted_tokens"] == count
        assert figures["perplexity"] == pytest.approx(math.exp(total / count), rel=5e-4)
        assert figures["bits_per_character"] == pytest.approx(total / math.log(2) / characters, rel=5e-4)
        assert figures["bits_per_byte"] == pytest.approx(total / math.log(2) / in_bytes, rel=5e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "llama"])
def test_the_perplexity_of_a_trained_model_is_that_of_plain_transformers(tiny, architecture):
    model = AutoModelForCausalLM.from_pretrained(tiny.model(architecture)).eval()
    tokens = np.concatenate([np.fromfile(tiny.shards["test"].parent / f"00{n}.bin", dtype="<u2") for n in (0, 1)])
    tokens, nats = torch.from_numpy(tokens.astype(np.int64)), 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 32):
            window = tokens[start : start + 33]
            logits = model(input_ids=window[None, :-1]).logits[0]
            nats += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    texts = [documents.text(document) for path in tiny.documents["test"] for document in documents.read(path)]
    record = json.loads(tiny.evaluation(architecture).read_text(encoding="utf-8"))
    assert record["predicted_tokens"] == len(tokens) - 1 == record["tokens"] - 1
    assert record["perplexity"] == pytest.approx(math.exp(nats / (len(tokens) - 1)), rel=1e-4)
    assert record["bits_per_character"] == pytest.approx(nats / math.log(2) / sum(map(len, texts)), rel=1e-4)
    assert record["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(len(t.encode()) for t in texts), rel=1e-4)


def flat(record: dict) -> dict:
    """The numbers of a record, those of a list or an object each by itself."""
    made = {}
    for key, value in record.items():
        inside = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
        made |= {f"{key} {name}": number for name, number in inside.items()} or {key: value}
    return {name: number for name, number in made.items() if isinstance(number, (int, float))}


@pytest.mark.parametrize("architecture", ["gpt2", "roberta", "bert"])
def test_the_batch_size_changes_no_figure(tiny, tmp_path, architecture):
    small, large = (evaluated(tiny, architecture, tmp_path / str(n), batch_size=n, pseudo_tokens=50) for n in (9, 50))
    assert len(flat(small)) > 10
    assert flat(small) == pytest.approx(flat(large), rel=1e-4)


def test_a_masked_model_is_asked_the_same_each_time(tiny, tmp_path):
    first, second = (evaluated(tiny, "roberta", tmp_path / str(n), pseudo_tokens=20) for n in (1, 2))
    assert first == second
    assert (first["objective"], first["mlm_probability"]) == ("masked tokens", 0.15)


def test_the_share_of_masked_tokens_is_a_knob(tiny, tmp_path):
    record = evaluated(tiny, "roberta", tmp_path / "e", mlm_probability=0.5, measures=[])
    special = 2 * record["documents"]
    assert record["predicted_tokens"] / (record["tokens"] - special) == pytest.approx(0.5, abs=0.03)


def test_figures_say_what_they_are_of(tiny):
    record = json.loads(tiny.evaluation("gpt2").read_text(encoding="utf-8"))
    summary = json.loads((tiny.root / "summary.json").read_text(encoding="utf-8"))
    assert (record["test_set"], record["objective"]) == ("wiki", "next token")
    for size in ("documents", "characters", "bytes"):
        assert record[size] == summary["test"][size]


def test_a_test_set_of_which_nothing_is_predicted_is_refused(tiny, stream, tmp_path):
    manifest = stream([2], vocab_size=2000, tokenizer=models.tokenizer_of(tiny.model("gpt2")))
    record = json.loads(manifest.read_text()) | {"documents": 1, "characters": 0, "bytes": 0}
    manifest.write_text(json.dumps(record))
    files = {"model": tiny.model("gpt2"), "test": manifest, "name": "wiki", "output": tmp_path / "figures.json"}
    with pytest.raises(evaluate.EvaluationError, match="has 1 tokens, of which none is predicted"):
        evaluate.main(tiny.arguments(Evaluate(), **files))
    assert not (tmp_path / "figures.json").exists()


def test_measures_can_be_left_out_and_a_block_can_be_shorter(tiny, tmp_path):
    record = evaluated(tiny, "gpt2", tmp_path / "e", measures=["by_document"], block_size=16)
    assert ("sliding" in record, "by_document" in record, record["block_size"]) == (False, True, 16)
    assert len(record["loss_by_position"]) == 8
    with pytest.raises(evaluate.EvaluationError, match="block_size is 64, but the model takes 32 tokens"):
        evaluated(tiny, "gpt2", tmp_path / "f", block_size=64)


@pytest.mark.parametrize("architecture", ["gpt2", "roberta", "bert"])
def test_an_export_has_the_same_figures_by_text_as_the_trained_model_by_shards(tiny, architecture, tmp_path):
    knobs = Evaluate(pseudo_tokens=50)
    files = {"model": tiny.model(architecture), "test": tiny.shards["test"], "documents": tiny.documents["test"]}
    evaluate.main(tiny.arguments(knobs, output=tmp_path / "shards", **files))
    evaluate.main(
        tiny.arguments(knobs, output=tmp_path / "text", model=tiny.exported(architecture), text=tiny.documents["test"])
    )
    files = {
        "model": tiny.model(architecture),
        "tokenizer": tiny.tokenizer["tokenizer"],
        "text": tiny.documents["test"],
    }
    evaluate.main(tiny.arguments(knobs, output=tmp_path / "trained", **files))
    shards, *by_text = (
        json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("shards", "text", "trained")
    )
    for record in by_text:
        assert flat(record) == pytest.approx(flat(shards), rel=1e-6)


def test_a_bert_exported_without_its_head_for_pairs_is_judged_on_masked_tokens(tiny, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(tiny.exported("bert"), bare, ignore=shutil.ignore_patterns(models.NEXT_SENTENCE))
    whole = json.loads(tiny.evaluation("bert").read_text(encoding="utf-8"))
    record = of_text(bare, "--test", tiny.shards["test"], "--pseudo-tokens", 20)
    assert not [name for name in record if name.startswith(("nsp", "pairs"))]
    assert record["loss"] == pytest.approx(whole["loss"], rel=1e-6)


def test_a_checkpoint_of_a_training_is_judged(tiny, tmp_path):
    folder = tiny.pretrain(tiny.config("gpt2", save_steps=20), tmp_path)
    step = next(tmp_path.glob("states/*/checkpoints/step-*40"))
    record = of_text(step, "--test", tiny.shards["test"], "--measures", "[]")
    assert record["model"] == "states:step-000000040"
    final = of_text(folder, "--test", tiny.shards["test"], "--measures", "[]")
    assert record["loss"] == pytest.approx(final["loss"], rel=1e-6)
    (step / "config.json").unlink()
    with pytest.raises(models.ModelError, match=r"is a checkpoint without config\.json"):
        of_text(step, "--test", tiny.shards["test"])


def test_a_causal_model_of_other_people_is_judged_on_the_same_text(text, tmp_path):
    folder = others(tmp_path / "gpt2", False, LINES)
    record = of_text(folder, "--text", text)
    tokenizer, gpt2 = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    nats = count = 0
    for line in LINES:
        ids = [0, *tokenizer(line)["input_ids"]]
        for begin in range(0, len(ids) - 1, 24):
            end = min(begin + 24, len(ids) - 1)
            start = max(0, end - 24)
            with torch.no_grad():
                logits = gpt2(input_ids=torch.tensor([ids[start:end]])).logits[0].log_softmax(1)
            nats -= logits.gather(1, torch.tensor(ids[start + 1 : end + 1])[:, None])[begin - start :].sum().item()
        count += len(ids) - 1
    figures = record["by_document"]
    assert (figures["first_token"], figures["predicted_tokens"]) == ("<|end|>", count)
    assert figures["bits_per_character"] == pytest.approx(nats / math.log(2) / sum(map(len, LINES)), rel=1e-5)
    assert figures["bits_per_byte"] == pytest.approx(
        nats / math.log(2) / sum(len(line.encode()) for line in LINES), rel=1e-5
    )
    assert (record["predicted_tokens"], record["byte_share"]) == (count + len(LINES) - 1, None)


def test_a_masked_model_of_other_people_is_judged_by_its_own_marks(text, tmp_path):
    folder = others(tmp_path / "bert", True, LINES)
    record = of_text(folder, "--text", text, "--pseudo-tokens", 10_000)
    tokenizer, bert = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer.backend_tokenizer.encode_special_tokens = True
    nats = count = 0
    for line in LINES:
        body = tokenizer.backend_tokenizer.encode(line, add_special_tokens=False).ids
        for start in range(0, len(body), 22):
            some = body[start : start + 22]
            for place, number in enumerate(some):
                ids = torch.tensor([[tokenizer.cls_token_id, *some, tokenizer.sep_token_id]])
                ids[0, place + 1] = tokenizer.mask_token_id
                with torch.no_grad():
                    nats -= bert(input_ids=ids).logits[0, place + 1].log_softmax(0)[number].item()
                count += 1
    assert record["pseudo_tokens"] == count
    assert record["pseudo_perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert 0 < record["predicted_tokens"] < count / 4


@pytest.mark.parametrize("masked", [False, True])
def test_no_more_blocks_are_fed_than_their_logits_have_room(tmp_path, monkeypatch, masked):
    monkeypatch.setattr(evaluate, "LOGITS", 3 * 24 * 300)
    folder = others(tmp_path / "other", masked, LINES)
    model, cut, seen = models.whole(folder), texts.cutter(folder, ""), []
    model.register_forward_hook(lambda *passed: seen.append(passed[-1].logits.numel()))
    text = texts.Texts([{"text": line} for line in LINES], cut, folder)
    judge = evaluate.Judge(model, text, Evaluate(pseudo_tokens=50), cut, text.sizes)
    assert judge.figures()["predicted_tokens"]
    assert 24 * 300 < max(seen) <= 3 * 24 * 300


def test_a_model_that_was_saved_in_bf16_is_judged_in_full_precision(text, tmp_path):
    folder = others(tmp_path / "bf16", False, LINES)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).save_pretrained(tmp_path / "fp32")
    full = of_text(tmp_path / "fp32", "--text", text, "--tokenizer", folder)
    assert flat(of_text(folder, "--text", text)) == flat(full)


def test_what_is_more_than_the_memory_holds_is_told_in_one_line(text, tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "score", mock.Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory.\nTried")))
    folder = others(tmp_path / "large", False, LINES)
    with pytest.raises(
        evaluate.EvaluationError,
        match=r"large is more than the GPU's memory holds; lower batch_size, which is 16, or block_size$",
    ):
        of_text(folder, "--text", text)


def test_a_text_shorter_than_a_block_is_judged(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("猫である。", encoding="utf-8")
    for architecture in ("gpt2", "bert"):
        record = of_text(tiny.exported(architecture), "--text", tmp_path / "a.txt")
        assert (record["documents"], record["characters"]) == (1, 5)
        assert record["predicted_tokens"] > 0
        assert "bits_per_character_interval" not in record.get("by_document", {})


def test_the_interval_is_around_the_figure(tiny, tmp_path):
    files = {"model": tiny.model("gpt2"), "test": tiny.shards["test"], "documents": tiny.documents["test"]}
    evaluate.main(tiny.arguments(Evaluate(measures=["by_document"]), output=tmp_path / "a", **files))
    figures = json.loads((tmp_path / "a").read_text(encoding="utf-8"))["by_document"]
    low, high = figures["bits_per_character_interval"]
    assert low < figures["bits_per_character"] < high
    files["documents"] = tiny.documents["valid"]
    with pytest.raises(evaluate.EvaluationError, match=r"--documents has 7 documents of [\d,]+ characters, .* says 8"):
        evaluate.main(tiny.arguments(Evaluate(), output=tmp_path / "b", **files))


def test_without_an_output_the_figures_are_printed(tiny, text, capsys):
    options = ["--model", str(tiny.exported("gpt2")), "--text", str(text)]
    assert evaluate.lines({"a": None, "by": [1.5, None]}) == [f"{'a':<42} -", f"{'by':<42} 1.5000 -"]
    evaluate.main(options)
    printed = capsys.readouterr().out
    evaluate.main([*options, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert re.search(
        rf"(?m)^by_document\.bits_per_character +{record['by_document']['bits_per_character']:.4f}$", printed
    )
    assert (record["model"], record["test_set"]) == ("gpt2", "text")


def spoilt(tiny, folder, change):
    """A copy of an exported model whose weights are changed."""
    shutil.copytree(tiny.exported("gpt2"), folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_weights_that_are_no_numbers_are_named(tiny, text, tmp_path):
    folder = spoilt(tiny, tmp_path / "nan", lambda weights: weights["transformer.ln_f.bias"].fill_(math.nan))
    with pytest.raises(
        evaluate.EvaluationError, match=r"the loss of the model is nan, no numbers .* transformer\.ln_f\.bias"
    ):
        of_text(folder, "--text", text)
    assert not (tmp_path / "figures.json").exists()


def test_weights_that_are_missing_or_cut_short_are_told(tiny, text, tmp_path):
    folder = spoilt(tiny, tmp_path / "a", lambda weights: weights.pop("transformer.ln_f.bias"))
    with pytest.raises(models.ModelError, match=r"has no transformer\.ln_f\.bias of the right size"):
        of_text(folder, "--text", text)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(models.ModelError, match="cannot be loaded as a model"):
        of_text(folder, "--text", text)
    with pytest.raises(models.ModelError, match=r"nirgends is no folder \(seen from "):
        of_text(tmp_path / "nirgends", "--text", text)


@pytest.mark.parametrize("name", ["GPT2Model", "ElectraForPreTraining", "MobileBertForPreTraining"])
def test_a_model_that_predicts_no_tokens_is_refused(tiny, text, tmp_path, name):
    folder = spoilt(tiny, tmp_path / "a", lambda _: None)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": [name]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(models.ModelError, match=f"is a {name}, which is none of"):
        of_text(folder, "--text", text)


@pytest.mark.parametrize(
    ("file", "auto"),
    [
        ("config.json", {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Own", None]}),
    ],
)
def test_code_in_a_folder_is_not_run(text, tmp_path, monkeypatch, file, auto):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    model, tokenizer = (others(tmp_path / name, False, LINES) for name in ("model", "tokenizer"))
    folder = model if file == "config.json" else tokenizer
    (tokenizer / "config.json").unlink()
    own = {"model_type": "own", "tokenizer_class": "Own", "auto_map": auto}
    config = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(config | own), encoding="utf-8")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    with pytest.raises((models.ModelError, texts.TextError), match=r"cannot be loaded.* custom code"):
        of_text(model, "--text", text, "--tokenizer", tokenizer)
    assert not (tmp_path / "ran").exists()


def test_tokens_that_the_model_does_not_have_are_told(tiny, text, tmp_path):
    small = others(tmp_path / "small", False, LINES)
    with pytest.raises(evaluate.EvaluationError, match=r"has 2,000 pieces and gives the token \d+, .* has 300 pieces"):
        of_text(small, "--text", text, "--tokenizer", tiny.tokenizer["tokenizer"])
    with pytest.raises(evaluate.EvaluationError, match=r"in the tokens of another tokenizer \(of 2,000 pieces"):
        of_text(small, "--test", tiny.shards["test"])


def test_a_tokenizer_of_another_training_is_refused_though_its_size_fits(tiny, text, tmp_path):
    for name in ("tokenizer.json", "spm.model"):
        shutil.copy(tiny.exported("gpt2") / name, tmp_path)
    with open(tmp_path / "spm.model", "ab") as file:
        file.write(b"\0")
    for tokenizer in (tmp_path, tmp_path / "tokenizer.json"):
        for model in (tiny.model("gpt2"), tiny.exported("gpt2")):
            with pytest.raises(evaluate.EvaluationError, match=r"is not that of the training of .*; give its own"):
                of_text(model, "--text", text, "--tokenizer", tokenizer)


def test_a_tokenizer_of_a_few_pieces_which_transformers_invented_is_refused(text, tmp_path):
    folder = others(tmp_path / "bert", True, LINES)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(evaluate.EvaluationError, match=r"has 5 pieces and gives the token \d, but the model has \d+"):
        of_text(folder, "--text", text)


def test_a_tokenizer_is_called_by_its_folder(tiny, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.exported("gpt2"))
    for tokenizer in (".", "tokenizer.json", tiny.exported("gpt2")):
        record = of_text(tiny.exported("gpt2"), "--text", text, "--tokenizer", tokenizer, "--measures", "[]")
        assert record["tokenizer"] == "gpt2"


def test_a_vocabulary_larger_than_its_tokenizer_is_noted(text, tmp_path, caplog):
    folder = others(tmp_path / "padded", False, LINES, vocab_size=320)
    with caplog.at_level("INFO"):
        of_text(folder, "--text", text)
    assert "the tokenizer has 300 pieces, the model 320" in caplog.messages


def test_a_trained_model_needs_a_tokenizer_for_text(tiny, text):
    with pytest.raises(texts.TextError, match="has no tokenizer; give --tokenizer"):
        of_text(tiny.model("gpt2"), "--text", text)


def test_several_processes_share_the_work(tiny, tmp_path):
    files = {"model": tiny.model("gpt2"), "test": tiny.shards["test"], "documents": tiny.documents["test"]}
    argv = tiny.arguments(Evaluate(), output=tmp_path / "two", **files)
    command = [sys.executable, "-m", "jalm", "launch", "--processes", "2", "evaluate", *argv]
    subprocess.run(command, check=True, capture_output=True)
    evaluate.main(tiny.arguments(Evaluate(), output=tmp_path / "one", **files))
    one, two = (json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("one", "two"))
    assert flat(two) == pytest.approx(flat(one), rel=1e-5)


@pytest.mark.slow
def test_lm_evaluation_harness_finds_the_same_bits_per_byte(tiny, tmp_path):
    venv.create(tmp_path / "harness", with_pip=True)
    site = next((tmp_path / "harness/lib").glob("python*/site-packages"))
    (site / "ours.pth").write_text(f"{next(path for path in sys.path if path.endswith('site-packages'))}\n")
    installed = subprocess.run(
        [tmp_path / "harness/bin/pip", "install", "--quiet", "lm_eval==0.4.13"], capture_output=True, text=True
    )
    if "connection broken by" in installed.stderr and installed.returncode:
        pytest.skip(f"pip has no network: {installed.stderr[-200:]}")
    assert installed.returncode == 0, installed.stderr
    found = (documents.text(document) for path in tiny.documents["test"] for document in documents.read(path))
    plain = [text for text in found if "[MASK]" not in text]  # which would be a special token there
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in plain), encoding="utf-8")
    (tmp_path / "lm_eval").mkdir()
    (tmp_path / "lm_eval" / "gpt2-tiny.yaml").write_text(harness.task("gpt2-tiny", "test.jsonl"), encoding="utf-8")
    folder = tiny.exported("gpt2")
    command = [
        tmp_path / "harness/bin/lm_eval",
        "--model",
        "hf",
        "--model_args",
        f"pretrained={folder},add_bos_token=False",
    ]
    command += [
        "--include_path",
        "lm_eval",
        "--tasks",
        "gpt2-tiny",
        "--device",
        "cpu",
        "--output_path",
        tmp_path / "out",
    ]
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "PATH": "/usr/bin:/bin",
    }
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=offline)
    said = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text(encoding="utf-8"))
    ours = of_text(folder, "--text", tmp_path / "test.jsonl", "--measures", '["by_document"]')["by_document"]
    assert said["results"]["gpt2-tiny"]["bits_per_byte,none"] == pytest.approx(ours["bits_per_byte"], rel=1e-3)
