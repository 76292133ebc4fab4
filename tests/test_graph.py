import importlib.util
import json

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from jalm.config import Export, Generation
from jalm.formats import documents, graph
from jalm.formats.graph import GraphError
from jalm.sizes import ARCHITECTURES, MASKED

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES if name != "gpt2"]


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    """Folders with a graph in them, made when first asked for."""
    made = {}

    def make(architecture: str):
        if architecture not in made:
            made[architecture] = tmp_path_factory.mktemp("onnx") / architecture
            config = Export(name=f"{architecture}-onnx", onnx=True, generation=Generation(max_new_tokens=8))
            tiny.export(architecture, made[architecture], config=config)
        return made[architecture]

    return make


def loaded(folder, architecture: str):
    kind = AutoModelForMaskedLM if architecture in MASKED else AutoModelForCausalLM
    return kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("architecture", ["gpt2", *SLOW])
def test_the_graph_computes_what_the_model_does_for_any_number_of_texts_of_any_length(tiny, exported, architecture):
    folder = exported(architecture)
    model, tokenizer = loaded(folder, architecture)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape == ["batch", "tokens", 2000]
    texts = [documents.text(d) for path in tiny.documents["test"] for d in documents.read(path)]
    for batch, length in (([texts[0]], 3), ([texts[1]], 7), (["夜。", texts[0]], 32), (texts[:3], 20)):
        inputs = tokenizer(batch, return_tensors="pt", padding=True, truncation=True, max_length=length)
        (have,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        with torch.no_grad():
            want = model(**inputs).logits.numpy()
        there = inputs["attention_mask"].numpy().astype(bool)
        assert have.shape == want.shape
        assert np.abs(have - want)[there].max() < 1e-3
        assert np.abs(want[there]).max() > 0.1  # so that this says something


@pytest.mark.parametrize("architecture", ["gpt2", *SLOW])
def test_the_file_has_each_weight_once_and_nothing_of_this_machine(exported, architecture):
    path = exported(architecture) / "model.onnx"
    weights = (exported(architecture) / "model.safetensors").stat().st_size
    assert path.stat().st_size < 1.05 * weights + 60_000  # positions and masks that are computed once
    assert b".py" not in path.read_bytes()


def test_the_folder_says_what_was_checked_and_the_card_how_it_is_used(exported):
    folder = exported("gpt2")
    proof = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["proof"]
    assert "model.onnx within 0.001" in proof["checks"]
    assert "model.onnx" in proof["files"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[2].split("```")[0].replace('"gpt2-onnx', f'"{folder}')
    known: dict = {}
    exec(code, known)  # noqa: S102
    assert known["logits"].shape[-1] == 2000


def test_a_graph_with_other_logits_is_found(tiny, exported):
    folder = exported("gpt2")
    model, tokenizer = loaded(folder, "gpt2")
    assert graph.check(folder / "model.onnx", model, tokenizer, ["京都の「夜」は、１０℃。"]) < 1e-4
    model.transformer.ln_f.bias.data[0] += 0.1
    with pytest.raises(
        GraphError, match=r"logits of model\.onnx differ from the model's by up to 0\.\d+, more than 0\.001, on 1 x "
    ):
        graph.check(folder / "model.onnx", model, tokenizer, ["京都の「夜」は、１０℃。"])


def test_without_its_packages_there_is_one_message(tiny, tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        graph.importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else there(name)
    )
    with pytest.raises(
        GraphError, match=r"there is no onnx, onnxscript, onnxruntime; pip install it, or set onnx to false"
    ):
        graph.write(*loaded(tiny.exported("gpt2"), "gpt2"), tmp_path / "model.onnx")


def test_a_model_that_the_exporter_cannot_follow_is_one_message(tiny, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.onnx.errors.OnnxExporterError("Failed to export the model\nand much more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(
        GraphError, match=r"^a gpt2 of these sizes .* \(Failed to export the model\); set onnx to false$"
    ):
        graph.write(*loaded(tiny.exported("gpt2"), "gpt2"), tmp_path / "model.onnx")
