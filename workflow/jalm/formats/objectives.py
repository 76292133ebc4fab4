"""What a model is asked to predict, by the name of its class in transformers; without loading it."""

NEXT_TOKEN, MASKED_TOKENS = "next token", "masked tokens"


def of_class(name: str) -> str | None:
    """What the models of a class predict; None if it is neither.

    Of the …ForPreTraining only BERT's fills masks; that of ELECTRA does not.
    """
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return NEXT_TOKEN
    return MASKED_TOKENS if name.endswith("ForMaskedLM") or name == "BertForPreTraining" else None
