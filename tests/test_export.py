import json
import shutil

import pytest
import torch
import yaml
from sentencepiece import sentencepiece_model_pb2
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    GPT2LMHeadModel,
    RobertaForMaskedLM,
    pipeline,
)

from jalm.config import Export, Generation
from jalm.stages import export
from jalm.stages.export import ExportError

LOADERS = {"gpt2": AutoModelForCausalLM, "roberta": AutoModelForMaskedLM}


def front_matter(folder) -> dict:
    _, head, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head)


@pytest.mark.parametrize(("architecture", "kind"), [("gpt2", GPT2LMHeadModel), ("roberta", RobertaForMaskedLM)])
def test_the_folder_loads_with_the_auto_classes_and_agrees_with_the_trained_model(tiny, architecture, kind):
    model = LOADERS[architecture].from_pretrained(tiny.exported(architecture)).eval()
    trained = LOADERS[architecture].from_pretrained(tiny.model(architecture)).eval()
    inputs = AutoTokenizer.from_pretrained(tiny.exported(architecture))("京都の「夜」は、１０℃。", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, trained(**inputs).logits)
    assert type(model) is kind


@pytest.mark.parametrize("architecture", LOADERS)
def test_everything_that_others_need_is_in_the_folder(tiny, architecture):
    folder = tiny.exported(architecture)
    assert (folder / "spm.model").read_bytes() == tiny.tokenizer["model"].read_bytes()
    assert (folder / "log.jsonl").read_bytes() == (tiny.model(architecture) / "log.jsonl").read_bytes()
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {p.name for p in folder.iterdir()}


def test_the_text_generation_pipeline_runs_without_arguments(tiny):
    torch.manual_seed(0)
    (said,) = pipeline("text-generation", model=str(tiny.exported("gpt2")))("日本の首都は")
    assert said["generated_text"].startswith("日本の首都は")
    assert len(said["generated_text"]) > len("日本の首都は")


def test_the_fill_mask_pipeline_runs_without_arguments(tiny):
    answers = pipeline("fill-mask", model=str(tiny.exported("roberta")))("日本の首都は[MASK]である。")
    assert len(answers) == 5
    for answer in answers:
        assert answer["sequence"] == f"日本の首都は{answer['token_str']}である。"


def test_generation_defaults_are_written_where_transformers_reads_them(tiny):
    config = AutoModelForCausalLM.from_pretrained(tiny.exported("gpt2")).generation_config
    assert (config.do_sample, config.max_new_tokens, config.top_k, config.top_p) == (True, 8, 50, 0.95)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (2, 3, 0)


def test_without_sampling_no_knob_of_sampling_is_written(tiny, tmp_path):
    config = Export(name="貪欲", generation=Generation(do_sample=False, max_new_tokens=4, top_k=7))
    files = {"model": tiny.model("gpt2"), "spm": tiny.tokenizer["model"], "tokenizer": tiny.tokenizer["tokenizer"]}
    files |= {"evaluation": tiny.evaluation("gpt2"), "texts": tiny.documents["test"]}
    export.main(tiny.arguments(config, output=tmp_path / "out", **files))
    written = json.loads((tmp_path / "out/generation_config.json").read_text(encoding="utf-8"))
    assert (written["do_sample"], written["max_new_tokens"]) == (False, 4)
    assert "top_k" not in written


@pytest.mark.parametrize(("architecture", "task"), [("gpt2", "text-generation"), ("roberta", "fill-mask")])
def test_the_front_matter_of_the_card_is_yaml_that_the_hub_understands(tiny, architecture, task):
    head = front_matter(tiny.exported(architecture))
    assert head["language"] == "ja"
    assert head["license"] == "cc-by-sa-4.0"
    assert (head["pipeline_tag"], head["library_name"]) == (task, "transformers")
    assert head["widget"][0]["text"].count("[MASK]") == (architecture == "roberta")


def test_the_example_of_the_card_suits_the_model(tiny):
    (example,) = front_matter(tiny.exported("roberta"))["widget"]
    assert pipeline("fill-mask", model=str(tiny.exported("roberta")))(example["text"])


@pytest.mark.parametrize("architecture", LOADERS)
def test_the_figures_of_the_card_are_those_of_the_evaluation(tiny, architecture):
    card = (tiny.exported(architecture) / "README.md").read_text(encoding="utf-8")
    record = json.loads(tiny.evaluation(architecture).read_text(encoding="utf-8"))
    (row,) = (line for line in card.splitlines() if line.startswith("| wiki |"))
    loss, perplexity, third, tokens = (cell.strip() for cell in row.strip("|").split("|")[1:])
    assert float(loss) == pytest.approx(record["loss"], abs=1e-4)
    assert float(perplexity) == pytest.approx(record["perplexity"], abs=0.01)
    expected = record["accuracy"] if architecture == "roberta" else record["bits_per_character"]
    assert float(third.removeprefix("accuracy ")) == pytest.approx(expected, abs=1e-3)
    assert int(tokens.replace(",", "")) == record["predicted_tokens"]
    evaluations = json.loads((tiny.exported(architecture) / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluations == [record]


def test_the_card_names_size_data_and_authors(tiny):
    card = (tiny.exported("gpt2") / "README.md").read_text(encoding="utf-8")
    parameters = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny.exported("gpt2")).parameters())
    assert f"{parameters:,} parameters" in card
    assert f"40 steps on {40 * 8 * 32:,} tokens" in card
    assert "- wiki (CC-BY-SA-4.0): 執筆者: https://ja.wikipedia.org" in card


def test_a_mixture_of_licences_is_called_other(tiny):
    data = [{"name": name, "license": name, "attribution": ""} for name in ("CC0-1.0", "Common Crawl terms of use")]
    training = {"parameters": 1, "steps": 1, "tokens": 1}
    card = export.card(Export(name="雑多", data=data), [], training, masked=False)
    assert "\nlicense: other\n" in card
    assert "- Common Crawl terms of use (Common Crawl terms of use)\n" in card


# ---- exports that do not agree


def tampered(spm, path):
    """The same pieces, a frequent one of them with a score that lets it never be chosen."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(spm.read_bytes())
    next(piece for piece in proto.pieces[7 + 256 :] if len(piece.piece) > 1).score = -99
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_tokenizer_that_gives_other_ids_is_not_exported(tiny, tmp_path):
    with pytest.raises(ExportError, match=r"the exported tokenizer gives .* where SentencePiece gives"):
        tiny.export("gpt2", tmp_path / "out", spm=tampered(tiny.tokenizer["model"], tmp_path / "spm.model"))
    assert not (tmp_path / "out").exists()


def test_a_failed_export_leaves_the_one_before_as_it_was(tiny, tmp_path):
    shutil.copytree(tiny.exported("gpt2"), tmp_path / "out")
    with pytest.raises(ExportError):
        tiny.export("gpt2", tmp_path / "out", spm=tampered(tiny.tokenizer["model"], tmp_path / "spm.model"))
    assert (tmp_path / "out/spm.model").read_bytes() == tiny.tokenizer["model"].read_bytes()


def test_a_tokenizer_that_decodes_otherwise_is_not_exported(tiny, tmp_path):
    record = json.loads(tiny.tokenizer["tokenizer"].read_text(encoding="utf-8"))
    record["decoder"]["decoders"] = [d for d in record["decoder"]["decoders"] if d["type"] != "ByteFallback"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ExportError, match=r"decodes the ids of .* otherwise than SentencePiece"):
        tiny.export("gpt2", tmp_path / "out", tokenizer=tmp_path / "tokenizer.json")
    assert not (tmp_path / "out").exists()


def test_a_model_with_other_logits_is_found(tiny, tmp_path):
    changed = GPT2LMHeadModel.from_pretrained(tiny.exported("gpt2"))
    with torch.no_grad():
        changed.transformer.ln_f.bias[0] += 1e-3
    changed.save_pretrained(tmp_path)
    export.check_model(tiny.exported("gpt2"), tiny.model("gpt2"), "東京は夜の7時。")
    with pytest.raises(ExportError, match="logits of the exported model differ from the trained one's by up to"):
        export.check_model(tiny.exported("gpt2"), tmp_path, "東京は夜の7時。")
