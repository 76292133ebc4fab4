import contextlib
import datetime
import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from sentencepiece import sentencepiece_model_pb2
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForMaskedLM,
    BertForPreTraining,
    GPT2LMHeadModel,
    GPTNeoForCausalLM,
    LlamaForCausalLM,
    ModernBertForMaskedLM,
    RobertaForMaskedLM,
    pipeline,
    set_seed,
)
from transformers.utils import logging

from jalm.config import Export, Generation, Pretrain
from jalm.configfile import PRESETS, load, merge
from jalm.formats import documents, harness
from jalm.formats.proof import ExportError
from jalm.formats.shards import Shards
from jalm.formats.tokenizer import TokenizerError
from jalm.knobs import flags, is_neutral, settings
from jalm.stages import pretrain
from jalm.stages.export import PromptError

CAUSAL = {"gpt2": GPT2LMHeadModel, "gpt_neo": GPTNeoForCausalLM, "llama": LlamaForCausalLM}
MASKED = {"roberta": RobertaForMaskedLM, "bert": BertForMaskedLM, "modernbert": ModernBertForMaskedLM}
LOADERS = dict.fromkeys(CAUSAL, AutoModelForCausalLM) | dict.fromkeys(MASKED, AutoModelForMaskedLM)


@pytest.fixture
def warned(caplog, monkeypatch):
    """Tells what transformers has warned of."""
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("transformers")]


def neutral(section) -> set[str]:
    return {name for name, info in section.model_fields.items() if is_neutral(info)}


@pytest.mark.parametrize(("architecture", "kind"), (CAUSAL | MASKED).items())
def test_the_folder_loads_with_the_auto_classes_and_agrees_with_the_trained_model(tiny, warned, architecture, kind):
    model = LOADERS[architecture].from_pretrained(tiny.exported(architecture)).eval()
    assert not warned()
    trained = (BertForPreTraining if architecture == "bert" else kind).from_pretrained(tiny.model(architecture)).eval()
    inputs = AutoTokenizer.from_pretrained(tiny.exported(architecture))("京都の「夜」は、１０℃。", return_tensors="pt")
    with torch.no_grad():
        have, want = model(**inputs).logits, trained(**inputs)
    assert torch.equal(have, want.prediction_logits if architecture == "bert" else want.logits)
    assert type(model) is kind


def test_a_roberta_keeps_the_bias_of_its_head_where_transformers_4_reads_it(tiny):
    weights = load_file(tiny.exported("roberta") / "model.safetensors")
    trained = RobertaForMaskedLM.from_pretrained(tiny.model("roberta"))
    assert trained.lm_head.bias.any()
    for name in ("lm_head.bias", "lm_head.decoder.bias"):
        assert torch.equal(weights[name], trained.lm_head.bias)


@pytest.mark.parametrize("architecture", LOADERS)
def test_a_text_is_fed_as_it_was_in_training(tiny, architecture):
    document = next(iter(documents.read(tiny.documents["test"][0])))
    trained_on = Shards(tiny.shards["test"]).document(0).tolist()
    folder = tiny.exported(architecture)
    ids = AutoTokenizer.from_pretrained(folder)(documents.text(document), verbose=False)["input_ids"]
    begin, *inside, end = trained_on  # <s> … </s>
    around = {"bert": ([4], [5]), "roberta": ([begin], [end]), "modernbert": ([begin], [end])}
    before, after = around.get(architecture, ([begin], []))
    assert ids == [*before, *inside, *after]


@pytest.mark.parametrize("architecture", LOADERS)
def test_tokenizer_and_model_mean_the_same_by_their_settings(tiny, architecture):
    tokenizer = AutoTokenizer.from_pretrained(tiny.exported(architecture))
    config = LOADERS[architecture].from_pretrained(tiny.exported(architecture)).config
    assert tokenizer.model_max_length == 32  # the block_size; a RoBERTa has one position more
    assert config.max_position_embeddings == (33 if architecture == "roberta" else 32)
    for piece in ("pad", "bos", "eos", "cls", "sep"):
        of_model = getattr(config, f"{piece}_token_id", None)
        assert of_model in (None, getattr(tokenizer, f"{piece}_token_id"))
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 2, 3)


def test_the_card_says_how_a_bert_gets_its_next_sentence_head_back(tiny, tmp_path, monkeypatch, warned):
    folder, trained = tiny.exported("bert"), BertForPreTraining.from_pretrained(tiny.model("bert"))
    code = (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[2].split("```")[0]
    (tmp_path / "code.py").write_text(code, encoding="utf-8")
    (tmp_path / "bert-tiny").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    known = runpy.run_path("code.py")
    assert "MISSING" in warned()[0]  # before they are put back
    weights = known["model"].state_dict()
    assert weights.keys() == trained.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in trained.state_dict().items())
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    classifier.load_state_dict(load_file(folder / "next_sentence_head.safetensors"), strict=False)
    assert torch.equal(classifier.bert.pooler.dense.weight, trained.bert.pooler.dense.weight)


@pytest.mark.parametrize("architecture", sorted(LOADERS.keys() - {"bert"}))
def test_no_other_model_has_a_next_sentence_head(tiny, architecture):
    assert {p.name for p in tiny.exported(architecture).glob("*.safetensors")} == {"model.safetensors"}
    assert "next sentence" not in (tiny.exported(architecture) / "README.md").read_text(encoding="utf-8").lower()


@pytest.mark.parametrize("architecture", LOADERS)
def test_everything_that_others_need_is_in_the_folder(tiny, architecture):
    folder = tiny.exported(architecture)
    assert (folder / "spm.model").read_bytes() == tiny.tokenizer["model"].read_bytes()
    assert (folder / "log.jsonl").read_bytes() == (tiny.model(architecture) / "log.jsonl").read_bytes()
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {p.name for p in folder.iterdir()}


@pytest.mark.parametrize("architecture", CAUSAL)
@pytest.mark.filterwarnings("error")
def test_the_text_generation_pipeline_runs_without_arguments_and_warnings(tiny, warned, architecture):
    pipe = pipeline("text-generation", model=str(tiny.exported(architecture)))
    torch.manual_seed(0)
    (said,) = pipe("日本の首都は")
    (first,), (second,) = pipe(["日本の首都は", "「夜」"], batch_size=2)  # the shorter one is padded
    for answer, prompt in ((said, "日本の首都は"), (first, "日本の首都は"), (second, "「夜」")):
        assert answer["generated_text"].startswith(prompt)
        assert len(answer["generated_text"]) > len(prompt)
    assert not warned()


@pytest.mark.parametrize("architecture", MASKED)
@pytest.mark.filterwarnings("error")
def test_the_fill_mask_pipeline_runs_without_arguments_and_warnings(tiny, warned, architecture):
    answers = pipeline("fill-mask", model=str(tiny.exported(architecture)))("日本の首都は[MASK]である。")
    assert len(answers) == 5
    for answer in answers:
        assert answer["sequence"] == f"日本の首都は{answer['token_str']}である。"
    assert not warned()


@pytest.mark.parametrize("architecture", CAUSAL)
def test_generation_defaults_are_written_where_transformers_reads_them(tiny, architecture):
    config = AutoModelForCausalLM.from_pretrained(tiny.exported(architecture)).generation_config
    assert (config.do_sample, config.max_new_tokens, config.top_k, config.top_p) == (True, 8, 50, 0.95)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (2, 3, 0)


def test_without_sampling_no_knob_of_sampling_is_written(tiny, tmp_path):
    config = Export(name="貪欲", generation=Generation(do_sample=False, max_new_tokens=4, top_k=7))
    tiny.export("gpt2", tmp_path / "out", config=config)
    written = json.loads((tmp_path / "out/generation_config.json").read_text(encoding="utf-8"))
    assert (written["do_sample"], written["max_new_tokens"]) == (False, 4)
    assert "top_k" not in written


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


def test_a_special_token_that_only_transformers_knows_is_found(tiny, tmp_path):
    record = json.loads(tiny.tokenizer["tokenizer"].read_text(encoding="utf-8"))
    record["added_tokens"] = [token for token in record["added_tokens"] if token["content"] != "[SEP]"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ExportError, match=r"where tokenizer\.json by itself gives"):
        tiny.export("gpt2", tmp_path / "out", tokenizer=tmp_path / "tokenizer.json")


def test_a_special_token_that_takes_the_space_before_it_is_found(tiny, tmp_path):
    record = json.loads(tiny.tokenizer["tokenizer"].read_text(encoding="utf-8"))
    next(token for token in record["added_tokens"] if token["content"] == "</s>")["lstrip"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ExportError, match="where SentencePiece, between special tokens, gives"):
        tiny.export("gpt2", tmp_path / "out", tokenizer=tmp_path / "tokenizer.json")


def test_a_file_that_is_no_tokenizer_is_one_message(tiny, tmp_path):
    (tmp_path / "tokenizer.json").write_text("東京", encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"is no tokenizer\.json"):
        tiny.export("gpt2", tmp_path / "out", tokenizer=tmp_path / "tokenizer.json")


def test_the_card_says_how_like_an_own_model_its_tokenizer_is(tiny, tmp_path):
    (tmp_path / "sample.json").write_text(
        json.dumps({"own_model": "mine.model", "lines": 3000, "same_lines": 2987}), encoding="utf-8"
    )
    tiny.export("gpt2", tmp_path / "out", sample=tmp_path / "sample.json")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "SentencePiece model mine.model, which cuts 2,987 of 3,000 pairs of" in card
    assert "own_model" not in (tiny.exported("gpt2") / "provenance.json").read_text(encoding="utf-8")


def test_defaults_that_leave_no_room_for_a_prompt_are_refused(tiny, tmp_path):
    config = Export(name="長い", generation=Generation(max_new_tokens=31))
    with pytest.raises(PromptError, match=r"max_new_tokens is 31, which leaves .* lower it to 16"):
        tiny.export("gpt2", tmp_path / "out", config=config)


# ---- what else is in the folder


EVERYWHERE = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
EVERYWHERE |= {"spm.model", "README.md", "LICENSE", "log.jsonl", "evaluation.json", "samples.json", "provenance.json"}
ONLY = {"bert": {"next_sentence_head.safetensors"}} | {
    name: {"generation_config.json", harness.PATH} for name in CAUSAL
}


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("architecture", LOADERS)
def test_the_folder_has_all_that_was_promised_and_nothing_else(tiny, architecture):
    folder = tiny.exported(architecture)
    assert files(folder).keys() == EVERYWHERE | ONLY.get(architecture, set())
    (kind,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    assert kind == (CAUSAL | MASKED)[architecture].__name__
    assert len({path.stat().st_mode for path in files(folder).values()}) == 1  # who can read one can read all
    names = json.loads((folder / "special_tokens_map.json").read_text(encoding="utf-8"))
    assert (names["mask_token"], names["unk_token"], names["bos_token"]) == ("[MASK]", "<unk>", "<s>")


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_the_proof_has_the_digest_of_every_file_but_its_own(tiny, architecture):
    folder = tiny.exported(architecture)
    proof = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["proof"]
    ran = subprocess.run(["sha256sum", *files(folder)], cwd=folder, capture_output=True, text=True, check=True)
    sums = {name: digest for digest, name in map(str.split, ran.stdout.splitlines())}
    del sums["provenance.json"]
    assert proof["files"] == sums
    assert {"weights", "token ids", "decoded text", "logits"} < set(proof["checks"])


def test_provenance_tells_what_a_model_was_made_from(tiny, tmp_path):
    (tmp_path / "wiki").mkdir()
    dump = {"files": {"a.bz2": {"url": "https://example.org/a.bz2", "size": 5, "sums": {"sha1": "0" * 40}}}}
    (tmp_path / "wiki/manifest.json").write_text(json.dumps(dump), encoding="utf-8")
    told = {
        "manifest": tmp_path / "wiki/manifest.json",
        "revision": "abc-dirty",
        "dictionary": "3.1@0a",
        "code": "b@2 a@1",
    }
    tiny.export("gpt2", tmp_path / "out", **told)
    made = json.loads((tmp_path / "out/provenance.json").read_text(encoding="utf-8"))
    (corpus,) = made["corpora"]
    assert (corpus["name"], corpus["license"], corpus["dump"]) == ("wiki", "CC-BY-SA-4.0", dump)
    assert corpus["account"]["split"]["out"]["test"]["documents"] == 8
    assert (made["revision"], made["dictionary"], made["code"]["export"]) == (
        "abc-dirty",
        "3.1@0a",
        {"a": "1", "b": "2"},
    )
    assert made["tokenizer"]["sha256"] == hashlib.sha256(tiny.tokenizer["model"].read_bytes()).hexdigest()
    assert made["tokenizer"]["vocab_size"] == 2000
    assert made["config"] == json.loads(tiny.config("gpt2").model_dump_json(exclude=neutral(Pretrain)))
    log = [json.loads(line) for line in (tiny.model("gpt2") / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [[line[key] for line in log if key in line][-1] for key in ("loss", "valid_loss")]
    assert [made["training"][key] for key in ("loss", "valid_loss")] == losses
    assert (made["training"]["tokens"], made["training"]["recipe"]) == (40 * 8 * 32, pretrain.RECIPE)
    assert made["versions"]["torch"] == torch.__version__
    made_at = datetime.datetime.fromisoformat(made["made"])
    assert abs((datetime.datetime.now(datetime.UTC) - made_at).total_seconds()) < 600


def test_a_model_of_an_older_version_is_exported_and_its_gaps_are_told(tiny, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(tiny.model("gpt2"), older)
    (older / "settings.json").unlink()
    (older / "training.json").write_text(json.dumps({"steps": 40, "tokens": 10240, "parameters": 1}), encoding="utf-8")
    tiny.export("gpt2", tmp_path / "out", model=older, account=[])
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "Its knobs were not recorded." in card
    assert "| hardware | not recorded |" in card
    assert "What became of it in each stage was not recorded." in card
    assert "trained at not recorded" in card
    made = json.loads((tmp_path / "out/provenance.json").read_text(encoding="utf-8"))
    assert (made["config"], made["code"], made["corpora"][0]["account"]) == ({}, {"pretrain": {}, "export": {}}, None)


def test_a_model_that_takes_the_place_of_an_older_one_says_what_is_new(tiny, tmp_path):
    tiny.export("gpt2", tmp_path / "out", earlier=tiny.exported("gpt2"))
    log = (tmp_path / "out/CHANGELOG.md").read_text(encoding="utf-8")
    assert "Takes the place of gpt2." in log
    assert "the same tokenizer" in log
    made = json.loads((tmp_path / "out/provenance.json").read_text(encoding="utf-8"))
    assert made["proof"]["files"].keys() == files(tmp_path / "out").keys() - {"provenance.json", "CHANGELOG.md"}
    assert "`CHANGELOG.md`" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_the_samples_are_what_a_reader_gets(tiny):
    sample = json.loads((tiny.exported("gpt2") / "samples.json").read_text(encoding="utf-8"))[1]
    pipe = pipeline("text-generation", model=str(tiny.exported("gpt2")))
    set_seed(0)
    assert pipe(sample["prompt"])[0]["generated_text"] == sample["text"]
    sample = json.loads((tiny.exported("bert") / "samples.json").read_text(encoding="utf-8"))[1]
    best = pipeline("fill-mask", model=str(tiny.exported("bert")))(sample["prompt"])[0]
    assert sample["candidates"][0] == {
        "token": best["token_str"],
        "probability": pytest.approx(best["score"]),
        "text": best["sequence"],
    }


def test_the_code_of_the_cards_runs_where_there_is_nothing_of_ours(tiny, tmp_path):
    program = ["import sys"]
    for architecture in ("gpt2", "roberta"):
        (tmp_path / f"{architecture}-tiny").symlink_to(tiny.exported(architecture))
        card = (tiny.exported(architecture) / "README.md").read_text(encoding="utf-8")
        english, japanese = (part.split("```")[0] for part in card.split("```python\n")[1:])
        assert english.splitlines()[-1] == japanese.splitlines()[-1]
        program.append(english)
    program.append("assert 'jalm' not in sys.modules")
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-I", "-c", "\n".join(program)], cwd=tmp_path, env=offline, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("日本の首都は") == 1 + 5


# ---- in the workflow


def test_the_folder_in_the_workflow_knows_its_dump_and_how_to_make_it_again(finished):
    folder = finished.work / "results/export/gpt2-tiny-20261001"
    made = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    ((name, file),) = made["corpora"][0]["dump"]["files"].items()
    ran = subprocess.run(
        ["sha1sum", finished.work / f"dumps/jawiki/20261001/{name}"], capture_output=True, text=True, check=True
    )
    assert file["sums"]["sha1"] == ran.stdout.split()[0]
    account = json.loads((finished.work / "results/split/jawiki-20261001/account.json").read_text(encoding="utf-8"))
    assert made["corpora"][0]["account"] == account
    assert {"stages.extract", "stages.segment", "stages.export", "formats.shards"} < made["code"]["export"].keys()
    assert made["dictionary"].count("@") == 1
    again = load(yaml.safe_load((folder / "configuration.yaml").read_text(encoding="utf-8")))
    files = [finished.code / name for name in ("config.yaml", "demo.yaml", "small.yaml")]
    first = load(reduce(merge, (yaml.safe_load(path.read_text(encoding="utf-8")) for path in files)))
    assert (list(again.models), list(again.corpora)) == (["gpt2-tiny"], ["jawiki"])
    for part in (lambda c: c.models["gpt2-tiny"], lambda c: c.tokenizers["unigram-4k"], lambda c: c.corpora["jawiki"]):
        assert settings(part(again)) == settings(part(first))
    for stage in ("extract", "segment", "filter", "dedup", "split", "evaluate"):
        assert settings(getattr(again, stage)) == settings(getattr(first, stage))


def test_the_commands_of_the_card_make_this_model_and_no_other(finished):
    folder = finished.work / "results/export/gpt2-tiny-20261001"
    assert (
        f"$ cp {folder.name}/configuration.yaml config.yaml\n$ snakemake --cores 8 results/export/{folder.name}\n"
        in (folder / "README.md").read_text(encoding="utf-8")
    )
    told = {
        "config.yaml": (folder / "configuration.yaml").read_text(encoding="utf-8"),
        "demo.yaml": "{}",
        "small.yaml": "{}",
    }
    with contextlib.ExitStack() as stack:
        for name, text in told.items():
            before = (finished.code / name).read_text(encoding="utf-8")
            stack.enter_context(finished.edited(name, before, text))
        target, dictionary = f"results/export/{folder.name}", ("--config", "segment={dictionary: unidic-lite}")
        assert finished.stale(target, *dictionary) == set()
        told = finished.run(target, "--dry-run", "--forceall", *dictionary)
    assert {Path(output.split(", ")[0]).parts[2] for rule, output in told.jobs if rule == "pretrain"} == {folder.name}


def test_no_text_of_the_folders_says_where_they_were_made(finished):
    for folder in (finished.work / "results/export").iterdir():
        texts = [path for path in files(folder).values() if path.suffix not in (".safetensors", ".model", ".onnx")]
        for text in (path.read_text(encoding="utf-8") for path in texts):
            for place in (str(finished.work), str(finished.code), str(Path.home()), "file:"):
                assert place not in text
    (credit,) = re.findall("(?m)^  From: (.*)$", (folder / "LICENSE").read_text(encoding="utf-8"))
    assert re.fullmatch(r"jawiki-20261001-\S+\.bz2, jawiki of 20261001, sha1 [0-9a-f]{40}", credit)


def test_an_older_model_is_found_and_makes_nothing_stale(finished):
    folders = [finished.work / f"results/export/{name}" for name in ("gpt2-tiny-20260801", "gpt2-tiny-20260901")]
    folders += [finished.work / f"results/export/{name}" for name in ("gpt2-tiny-20261101", "gpt2-tiny-b-20260901")]
    for folder in folders:
        folder.mkdir()
    try:
        assert finished.stale() == set()
        told = finished.run("--dry-run", "--printshellcmds", "--forcerun", "export").output
    finally:
        for folder in folders:
            folder.rmdir()
    assert set(re.findall(r"--earlier results/export/([\w-]+)", told)) == {"gpt2-tiny-20260901"}


def test_a_configuration_with_a_tokenizer_of_ones_own_can_be_loaded_again(tmp_path):
    own = {"corpora": ["b"], "model": "my.model"}
    text = {"source": "text", "paths": ["a.txt"], "license": "CC0-1.0"}
    entry = {"preset": "gpt2-small", "tokenizer": "own", "corpora": {"b": 2.0}, "license": "MIT", "onnx": True}
    values = {"dump_date": "20261101", "corpora": {"a": text, "b": {**text, "dataset": "x/y"}, "c": text}}
    config = load({**values, "tokenizers": {"own": own}, "models": {"m": entry}})
    made = config.export("m")
    assert (made.license, made.onnx, made.data[0]["dataset"]) == ("MIT", True, "x/y")
    again = load(json.loads(json.dumps(made.configuration)))
    assert again.export("m") == made
    assert list(again.corpora) == ["a", "b"]  # what b is compared with, and nothing that comes later
    assert settings(again.models["m"]) == settings(config.models["m"])
    assert again.tokenizers["own"].model == "my.model"


@pytest.mark.parametrize(("pinned", "pieces"), [(None, 5000), ("20261101", 5000), ("20261001", 32000)])
def test_a_configuration_has_how_a_tokenizer_is_trained_unless_that_is_of_another_date(pinned, pieces):
    text = {"source": "text", "paths": ["a.txt"], "license": "CC0-1.0"}
    values = {
        "dump_date": "20261101",
        "corpora": {"a": text},
        "tokenizers": {"t": {"corpora": ["a"], "vocab_size": 5000}},
    }
    entry = {"preset": "gpt2-small", "tokenizer": "t", "corpora": {"a": 1.0}}
    config = load({**values, "pin": {"tokenizer": pinned}, "models": {"m": entry}})
    again = load(json.loads(json.dumps(config.configuration("m"))))
    assert again.tokenizers["t"].vocab_size == pieces


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_the_configuration_of_every_preset_can_be_loaded_again(preset):
    entry = {"preset": preset, "tokenizer": "t", "corpora": {"a": 2.0}, "per_device_train_batch_size": 1}
    text = {"source": "text", "paths": ["a.txt"], "license": "CC0-1.0"}
    values = {"dump_date": "20261101", "corpora": {"a": text}, "tokenizers": {"t": {"corpora": ["a"]}}}
    config = load({**values, "models": {"m": entry}})
    again = load(json.loads(json.dumps(config.configuration("m"))))
    assert flags(again.models["m"], Pretrain) == flags(config.models["m"], Pretrain)
    assert again.export("m") == config.export("m")


def test_the_configuration_has_the_models_that_one_starts_from_and_the_test_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = {"source": "text", "paths": ["a.txt"], "license": "CC0-1.0"}
    common = {"preset": "gpt2-small", "tokenizer": "t"}
    models = {
        "last": {**common, "corpora": {"a": 1.0}, "init_model": str(tmp_path / "results/export/second-20261101")},
        "second": {**common, "corpora": {"b": 1.0}, "init_model": "results/pretrain/first-20261101"},
        "first": {**common, "corpora": {"c": 1.0}, "init_model": "results/pretrain/older-20261001"},
        "other": {**common, "corpora": {"d": 1.0}},
    }
    values = {"dump_date": "20261101", "corpora": dict.fromkeys("abcd", text), "tokenizers": {"t": {"corpora": ["a"]}}}
    config = load({**values, "models": models, "test_sets": {"s": {"paths": ["s.txt"]}}})
    made = config.configuration("last")
    assert (list(made["models"]), list(made["corpora"])) == (["last", "second", "first"], ["a", "b", "c"])
    again = load(made)
    assert again.test_sets == config.test_sets
    for name in made["models"]:
        assert flags(again.models[name], Pretrain) == flags(config.models[name], Pretrain)


def test_a_table_of_templates_is_told_by_name_and_digest(tiny, tmp_path):
    table = tmp_path / "mine.yaml"
    table.write_text("{}", encoding="utf-8")
    config = Export(name="表", generation=Generation(max_new_tokens=8), configuration={"models": {}})
    tiny.export("gpt2", tmp_path / "out", templates=table, config=config)
    told = {"name": "mine.yaml", "sha256": hashlib.sha256(b"{}").hexdigest()}
    assert json.loads((tmp_path / "out/provenance.json").read_text(encoding="utf-8"))["templates"] == told
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert card.count("mine.yaml") == card.count(told["sha256"]) == 2


def test_files_of_ones_own_are_told_by_their_names(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = tmp_path / "trained"
    shutil.copytree(tiny.model("gpt2"), trained)
    record = json.loads((trained / "training.json").read_text(encoding="utf-8"))
    first = {"init_model": str(tmp_path / "秘密/first")}
    (trained / "training.json").write_text(json.dumps(record | first), encoding="utf-8")
    told = {
        "corpora": {
            "a": {"paths": [str(tmp_path / "秘密/a.txt"), "秘密/b.jsonl", str(tmp_path / "results/split/c/test")]}
        },
        "test_sets": {"s": {"paths": ["秘密/s"]}},
        "tokenizers": {"t": {"model": "秘密/my.model"}},
        "models": {
            "m": {"init_model": "../秘密/m"},
            "n": {"init_model": "rinna/x@1a"},
            "o": {"init_model": str(tmp_path / "results/pretrain/n-20261101")},
            "p": {"init_model": ""},
        },
    }
    url = f"file:{tmp_path}/秘密"
    file = {"url": f"{url}/a.bz2", "size": 5, "sums": {"sha1": "0" * 40}}
    (tmp_path / "wiki").mkdir()
    dump = {"wiki": "jawiki", "date": "20261101", "mirror": url, "files": {"a.bz2": file}}
    (tmp_path / "wiki/manifest.json").write_text(json.dumps(dump), encoding="utf-8")
    data = [{"name": "wiki", "license": "CC-BY-SA-4.0", "attribution": ""}]
    config = Export(name="名", generation=Generation(max_new_tokens=8), data=data, configuration=told)
    tiny.export("gpt2", tmp_path / "out", config=config, model=trained, manifest=tmp_path / "wiki/manifest.json")
    for path in files(tmp_path / "out").values():
        assert "秘密".encode() not in path.read_bytes()
        assert json.dumps("秘密")[1:-1].encode() not in path.read_bytes()
    made = yaml.safe_load((tmp_path / "out/configuration.yaml").read_text(encoding="utf-8"))
    assert made["corpora"]["a"]["paths"] == ["a.txt", "b.jsonl", "results/split/c/test"]
    assert [entry["init_model"] for entry in made["models"].values()] == [
        "m",
        "rinna/x@1a",
        "results/pretrain/n-20261101",
        "",
    ]
    assert (made["tokenizers"]["t"]["model"], made["test_sets"]["s"]["paths"]) == ("my.model", ["s"])
    assert "trained from `first`" in (tmp_path / "out/README.md").read_text(encoding="utf-8")
    said = f"From: a.bz2, jawiki of 20261101, sha1 {'0' * 40}\n"
    assert said in (tmp_path / "out/LICENSE").read_text(encoding="utf-8")
