"""Use an exported model: complete a text, or fill the [MASK] in one."""

import argparse
import json
from pathlib import Path

from jalm import Fault


class PromptError(Fault):
    """A prompt that the model can do nothing with."""


def complete(folder: Path, prompt: str, seed: int) -> str:
    """The prompt with what a causal model says after it, by the generation defaults of its folder."""
    import torch
    from transformers import AutoTokenizer

    from jalm.formats import models

    tokenizer, model = AutoTokenizer.from_pretrained(folder), models.load(str(folder))
    inputs = tokenizer(prompt, return_tensors="pt", verbose=False)
    taken, room = inputs["input_ids"].shape[1], models.block_size(model)
    if taken >= room:
        raise PromptError(f"the prompt has {taken} tokens, which leaves nothing of the {room} that {folder} takes")
    torch.manual_seed(seed)
    ids = model.generate(**inputs, max_new_tokens=min(room - taken, model.generation_config.max_new_tokens or room))
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def fill(folder: Path, prompt: str, candidates: int) -> list[tuple[str, float]]:
    """Likeliest pieces for the [MASK] of a prompt, with their probabilities."""
    import torch
    from transformers import AutoTokenizer

    from jalm.formats import models

    tokenizer, model = AutoTokenizer.from_pretrained(folder), models.load(str(folder))
    inputs = tokenizer(prompt, return_tensors="pt", verbose=False)
    taken, room = inputs["input_ids"].shape[1], models.block_size(model)
    if taken > room:
        raise PromptError(f"the prompt has {taken} tokens, more than the {room} that {folder} takes")
    places = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if len(places) != 1:
        raise PromptError(f"the prompt has {len(places)} {tokenizer.mask_token} where a masked model needs one")
    with torch.no_grad():
        best = model(**inputs).logits[0, places[0]].softmax(dim=0).topk(candidates)
    return [(tokenizer.decode([i]), p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="jalm generate", description=__doc__)
    parser.add_argument("model", type=Path, help="an exported folder (results/export/…)")
    parser.add_argument("prompt", help="text to go on from, or with one [MASK]")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--candidates", type=int, default=5, metavar="N", help="pieces shown for a [MASK] (default: 5)")
    args = parser.parse_args(argv)
    for name in ("config.json", "tokenizer.json"):
        if not (args.model / name).is_file():
            raise PromptError(f"{args.model} is no exported model: it has no {name}")

    architecture = json.loads((args.model / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    if architecture.endswith("ForMaskedLM"):
        for piece, probability in fill(args.model, args.prompt, args.candidates):
            print(f"{probability:6.1%}  {piece}")
    else:
        print(complete(args.model, args.prompt, args.seed))
