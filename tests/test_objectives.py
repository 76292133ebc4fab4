import pytest
import transformers

from jalm.formats import models, objectives


@pytest.mark.parametrize("kind", models.CLASSES)
def test_what_is_trained_here_predicts_what_its_auto_class_says(kind):
    config, made = models.CLASSES[kind]
    found = objectives.of_class(made.__name__)
    auto = transformers.AutoModelForMaskedLM if found == "masked tokens" else transformers.AutoModelForCausalLM
    assert config in auto._model_mapping


@pytest.mark.parametrize("name", ["ElectraForPreTraining", "T5ForConditionalGeneration", "BertModel", ""])
def test_other_classes_predict_neither(name):
    assert objectives.of_class(name) is None
