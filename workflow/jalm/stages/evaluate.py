"""Judge a model on a test set: perplexity, and bits per character and byte of the raw text.

Sums over all tokens are divided once. Perplexities of models with different tokenizers cannot be compared; bits per
character can. Blocks are disjoint, so the first tokens of a block see little context, as in the papers. The <s> and </s> between
documents are predicted like any other token.
"""

import json
import math
from pathlib import Path

from jalm import Fault, cli
from jalm.config import Evaluate
from jalm.formats.shards import Shards


class EvaluationError(Fault):
    """A test set that no model can be judged on."""


def report(nats: float, tokens: int, correct: int, masked: bool, text: dict) -> dict:
    """Figures of a model on a test set.

    Args:
        nats: negative log-likelihood, summed over the predicted tokens.
        tokens: predicted tokens.
        correct: those predicted rightly.
        masked: whether the model predicts masked tokens; then there are no bits per character.
        text: `characters` and `bytes` of the raw text, before any normalisation.
    """
    bits = nats / math.log(2)
    figures = {
        "loss": nats / tokens,
        "perplexity": math.exp(nats / tokens),
        "accuracy": correct / tokens,
        "predicted_tokens": tokens,
    }
    if not masked:
        figures |= {"bits_per_character": bits / text["characters"], "bits_per_byte": bits / text["bytes"]}
    return figures


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Evaluate, "evaluate")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder of a trained model")
    parser.add_argument("--test", type=Path, required=True, metavar="FILE", help="manifest of the test shards")
    parser.add_argument("--name", required=True, help="name of the test set")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the figures (.json)")
    parser.add_argument(
        "--cpus", type=int, default=1, metavar="N", help="threads on a machine without GPU (default: 1)"
    )
    args, config = cli.parse(parser, argv)

    import torch

    from jalm.formats import models

    torch.set_num_threads(args.cpus)
    shards = Shards(args.test)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = models.load(str(args.model)).to(device)
    masked = models.architecture(model) in models.MASKED
    total = models.score(model, shards, models.block_size(model), config.batch_size, config.mlm_probability)
    if not total.tokens:
        raise EvaluationError(
            f"{args.test} has {shards.tokens} tokens, of which none is predicted; take a larger test set"
        )
    text = {key: shards.manifest[key] for key in ("documents", "characters", "bytes")}
    figures = report(total.nats, total.tokens, total.correct, masked, text)
    record = {"model": args.model.name, "test_set": args.name, **figures, **text, "tokens": shards.tokens}
    record["objective"] = "masked tokens" if masked else "next token"
    if masked:
        record["mlm_probability"] = config.mlm_probability
    with cli.writing(args.output) as (output,):
        output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    bits = f", {figures['bits_per_character']:.3f} bits a character" if not masked else ""
    cli.closing("evaluate", f"{shards.tokens:,} tokens", f"perplexity {figures['perplexity']:.2f}{bits}")
