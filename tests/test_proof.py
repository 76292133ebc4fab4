import hashlib
import json
import shutil
import signal
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForPreTraining

from jalm.formats import documents, outsider, proof
from jalm.formats.proof import ExportError


@pytest.fixture
def copied(tiny, tmp_path):
    """Makes copies of exported folders that can be spoilt."""

    def make(architecture: str):
        shutil.copytree(tiny.exported(architecture), tmp_path / architecture)
        return tmp_path / architecture

    return make


@pytest.fixture
def here(monkeypatch):
    """What others see is seen in this process."""
    monkeypatch.setattr(proof, "outside", outsider.observe)


def proven(tiny, folder, architecture: str, texts: list[str] | None = None):
    task = "text-generation" if architecture == "gpt2" else "fill-mask"
    prompts = ["夜の" if architecture == "gpt2" else "夜の[MASK]が"]
    return proof.prove(folder, tiny.model(architecture), architecture, task, 32, texts or ["京都の夜。"], prompts)


def spoilt(path, name: str, change) -> None:
    """Replace a weight in a safetensors file; None takes it out."""
    weights = load_file(path)
    changed = change(weights.pop(name).clone())
    if changed is not None:
        weights[name] = changed
    save_file(weights, path, {"format": "pt"})


def test_a_fresh_process_proves_a_folder_and_gives_its_samples(tiny):
    texts = [documents.text(d) for path in tiny.documents["test"] for d in documents.read(path)]
    checks, samples = proven(tiny, tiny.exported("gpt2"), "gpt2", texts)
    assert checks == ["weights", "token ids", "decoded text", "logits", "text-generation pipeline"]
    assert samples[0].keys() == {"prompt", "text"}


def test_a_folder_whose_pipeline_breaks_is_refused_with_the_step_and_the_reason(tiny, copied):
    folder = copied("gpt2")
    (folder / "generation_config.json").write_text('{"max_new_tokens": 99}', encoding="utf-8")
    with pytest.raises(
        ExportError, match=r"plain transformers fails with the exported folder, in pipeline: IndexError"
    ):
        proven(tiny, folder, "gpt2")


def test_a_process_that_is_killed_is_told(monkeypatch):
    killed = subprocess.CompletedProcess([], -signal.SIGKILL, "", "")
    monkeypatch.setattr(proof.subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(ExportError, match="was ended by SIGKILL; give export more memory"):
        proof.outside({})


def test_the_fresh_process_is_offline_and_has_the_package_not_beside_it(monkeypatch):
    seen = {}

    def run(command, env, **_):
        seen.update(command=command, env=env)
        command[-1].write_text('{"ids": []}', encoding="utf-8")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(proof.subprocess, "run", run)
    assert proof.outside({"texts": []}) == {"ids": []}
    assert seen["env"]["HF_HUB_OFFLINE"] == "1"
    assert "-P" in seen["command"]  # else names of our modules would stand before those of others


@pytest.mark.parametrize(
    ("architecture", "file", "name"),
    [
        ("gpt2", "model", "transformer.wpe.weight"),
        ("bert", "model", "bert.embeddings.word_embeddings.weight"),
        ("bert", "next_sentence_head", "cls.seq_relationship.bias"),
        ("roberta", "model", "lm_head.decoder.bias"),
    ],
)
def test_a_weight_that_differs_in_its_last_bit_is_found(tiny, here, copied, architecture, file, name):
    folder = copied(architecture)
    proven(tiny, folder, architecture)

    def next_number(weight):
        weight.view(-1)[-1] = torch.nextafter(weight.view(-1)[-1], torch.tensor(9.0))
        return weight

    spoilt(folder / f"{file}.safetensors", name, next_number)
    with pytest.raises(ExportError, match=f"weights of the exported model are not those of the trained one: {name}"):
        proven(tiny, folder, architecture)


@pytest.mark.parametrize("change", [lambda _: None, lambda weight: weight.half()])
def test_a_weight_that_is_missing_or_of_another_type_is_found(tiny, here, copied, change):
    folder = copied("gpt2")
    spoilt(folder / "model.safetensors", "transformer.ln_f.bias", change)
    with pytest.raises(ExportError, match=r"transformer\.ln_f\.bias"):
        proven(tiny, folder, "gpt2")


def test_a_setting_that_changes_what_weights_mean_is_found_by_the_logits(tiny, here, copied):
    folder = copied("gpt2")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"activation_function": "relu"}), encoding="utf-8")
    with pytest.raises(ExportError, match=r"logits of the exported model differ .* by up to 0\.\d+, on '京都の夜。'"):
        proven(tiny, folder, "gpt2")


@pytest.mark.parametrize("changed", ["cls.predictions.bias", "cls.seq_relationship.bias", "bert.pooler.dense.bias"])
def test_a_bert_with_other_logits_of_tokens_or_pairs_is_found(tiny, tmp_path, changed):
    trained = BertForPreTraining.from_pretrained(tiny.model("bert"))
    trained.get_parameter(changed).data[0] += 1e-3
    trained.save_pretrained(tmp_path)
    loaded = outsider.load(str(tiny.exported("bert")), "fill-mask")
    for folder, same in ((tiny.model("bert"), True), (tmp_path, False)):
        (difference,) = outsider.logits(str(tiny.exported("bert")), str(folder), loaded, ["東京は夜の7時。"], 32)
        assert (difference == 0) == same


def test_logits_that_are_no_numbers_are_no_proof():
    with pytest.raises(ExportError, match="by up to nan"):
        proof.check_logits(["夜"], {"differences": [float("nan")]})


def test_another_tokenizer_is_found(tiny, here, copied):
    folder = copied("gpt2")
    record = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    record["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ExportError, match=r"where SentencePiece, between special tokens, gives \[2"):
        proven(tiny, folder, "gpt2")


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ({"prompt": "夜の", "text": "朝の"}, r"answers \['朝の'\] to '夜の'"),
        ({"prompt": "夜[MASK]", "around": ["夜", ""], "candidates": []}, "answers nothing"),
        ({"prompt": "夜[MASK]", "around": ["夜", ""], "candidates": [{"text": "朝が"}]}, r"answers \['朝が'\]"),
    ],
)
def test_a_pipeline_that_changes_the_text_it_was_given_is_found(sample, said):
    with pytest.raises(ExportError, match=said):
        proof.check_pipeline({"samples": [sample]})


def test_digests_are_of_all_files(tmp_path):
    (tmp_path / "b").write_bytes(b"\0")
    (tmp_path / "a").write_bytes(b"")
    assert list(proof.digests(tmp_path).items()) == [
        (n, hashlib.sha256(c).hexdigest()) for n, c in (("a", b""), ("b", b"\0"))
    ]
