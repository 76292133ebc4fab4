"""What somebody gets out of an exported folder who has transformers and nothing of ours.

A program of its own, `outsider.py REQUEST ANSWER` (both JSON), which imports nothing of this package, so that nothing that an
exporting process has loaded or registered can help. Its steps have names that tell where a folder fails.
"""

import copy
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import transformers

HEAD = "next_sentence_head.safetensors"
Loaded = tuple["transformers.PreTrainedTokenizerBase", "transformers.PreTrainedModel"]


def load(folder: str, task: str) -> Loaded:
    """Tokenizer and model of a folder, as its reader gets them."""
    import transformers

    kind = transformers.AutoModelForMaskedLM if task == "fill-mask" else transformers.AutoModelForCausalLM
    return transformers.AutoTokenizer.from_pretrained(folder), aligned(kind.from_pretrained(folder))


def aligned(model: "transformers.PreTrainedModel") -> "transformers.PreTrainedModel":
    """A copy: sums come out otherwise in the last bit where a mapped file has put the weights at other places."""
    return copy.deepcopy(model.eval())


def logits(folder: str, trained: str, loaded: Loaded, texts: list[str], length: int) -> list[float]:
    """Largest difference between the logits of the folder's model and those of the trained one, for each text."""
    import torch
    import transformers
    from safetensors.torch import load_file

    tokenizer, exported = loaded
    original = getattr(transformers, transformers.AutoConfig.from_pretrained(trained).architectures[0])
    wanted = aligned(original.from_pretrained(trained))
    pairs = None
    if Path(folder, HEAD).is_file():
        pairs = original(wanted.config).eval()
        pairs.load_state_dict(exported.state_dict() | load_file(Path(folder, HEAD)))
    differences = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=length)
        with torch.no_grad():
            have, want = [exported(**inputs)[0]], wanted(**inputs)
            if pairs:
                have.append(pairs(**inputs)[1])
        found = [(a - b).abs().max() for a, b in zip(have, want[: len(have)], strict=True)]
        differences.append(torch.stack(found).max().item())
    return differences


def pipeline(folder: str, task: str, prompts: list[str], seed: int) -> list[dict[str, Any]]:
    """What the pipeline of the folder makes of each prompt, with no arguments."""
    import transformers

    pipe, made = transformers.pipeline(task, model=folder), []
    for prompt in prompts:
        transformers.set_seed(seed)
        answers = pipe(prompt)
        if task == "fill-mask":
            known = pipe.tokenizer(prompt.split("[MASK]"), add_special_tokens=False)["input_ids"]
            around = pipe.tokenizer.batch_decode(known, skip_special_tokens=True)
            found = [{"token": a["token_str"], "probability": a["score"], "text": a["sequence"]} for a in answers]
            made.append({"prompt": prompt, "around": around, "candidates": found})
        else:
            made.append({"prompt": prompt, "text": answers[0]["generated_text"]})
    return made


def observe(request: dict[str, Any]) -> dict[str, Any]:
    """Use a folder as others do.

    Args:
        request: `folder`; `trained`, what it was made from; `task` of its pipeline; `texts` for the tokenizer; `ids` to be
            decoded; `compared`, texts whose logits are compared, of at most `length` tokens; `prompts` and `seed` for the pipeline.

    Returns:
        `ids` of each text, `decoded` text of each ids, `differences` of each compared text, `samples` of each prompt.
    """
    folder, task = request["folder"], request["task"]
    loaded = load(folder, task)
    return {
        "ids": [loaded[0](text, verbose=False)["input_ids"] for text in request["texts"]],
        "decoded": [loaded[0].decode(ids) for ids in request["ids"]],
        "differences": logits(folder, request["trained"], loaded, request["compared"], request["length"]),
        "samples": pipeline(folder, task, request["prompts"], request["seed"]),
    }


if __name__ == "__main__":
    asked, told = map(Path, sys.argv[1:])
    told.write_text(json.dumps(observe(json.loads(asked.read_text(encoding="utf-8")))), encoding="utf-8")
