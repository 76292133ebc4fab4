"""Judge a model on a test set: perplexity, and bits per character and byte of the raw text.

Sums over all tokens are divided once. Perplexities of models with different tokenizers cannot be compared; bits per
character can. A causal model is asked three times: in disjoint blocks of the stream, where the first tokens of a block see
little before them, as in the papers; with a window that slides by half its size, so that each sees at least half a block; and
each document alone after <s>, without its </s>, as lm-evaluation-harness does it. In the stream <s> and </s> are predicted like
any other token. A masked model is asked a share of the tokens, and some tokens each masked alone.

A test set is the shards of a corpus (--test), or any text (--text), which the model's own tokenizer cuts: so the models of
other people are judged on the same text. --model is a trained model, an exported one, a checkpoint of a training, or
any Hugging Face folder. Without --output the figures are printed.
"""

import argparse
import json
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jalm import Fault, cli
from jalm.config import Evaluate
from jalm.formats import documents, processes
from jalm.formats.ids import BOS
from jalm.formats.objectives import MASKED_TOKENS, NEXT_TOKEN
from jalm.formats.shards import Shards

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from jalm.formats import batches, scores, texts

LONGEST = 4096  # tokens that a model of other people sees at once unless told otherwise
LOGITS = 2**29  # at once, 2 GiB: 16 blocks of 1,024 tokens of 32,768 pieces
LARGEST = 700  # nats a token; e to this power is nearly the largest number there is


class EvaluationError(Fault):
    """A test set that no model can be judged on, or a model that cannot be judged."""


def rates(nats: float, count: float, text: dict) -> dict:
    """Figures of predictions of the next token.

    Args:
        nats: their sum.
        count: how many they are.
        text: `characters` and `bytes` of the raw text, before any normalisation.
    """
    bits = nats / math.log(2)
    return {
        "loss": nats / count,
        "perplexity": math.exp(nats / count),
        "bits_per_character": bits / text["characters"],
        "bits_per_byte": bits / text["bytes"],
        "predicted_tokens": int(count),
    }


def report(score: "scores.Score", masked: bool, text: dict) -> dict:
    """Figures of a model in blocks of the stream.

    Args:
        score: of the model.
        masked: whether it predicts masked tokens; then there are no bits per character.
        text: as of `rates`.
    """
    tokens, pairs = score.tokens, score.pairs
    figures = rates(tokens.nats, tokens.count, text)
    if masked:
        figures = {name: figures[name] for name in ("loss", "perplexity", "predicted_tokens")}
    figures["accuracy"] = tokens.correct / tokens.count
    if pairs.count:
        figures |= {"nsp_loss": pairs.loss, "nsp_accuracy": pairs.correct / pairs.count, "pairs": pairs.count}
    return figures


class Judge:
    """A model and a test set.

    Each process has one, and does its share of the work; the figures are those of all.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        stream: "Shards | texts.Texts",
        config: Evaluate,
        cut: "PreTrainedTokenizerBase | None" = None,
        sizes: "np.ndarray | None" = None,
    ) -> None:
        """Put them together.

        Args:
            model: the model.
            stream: the test set, in its tokens.
            config: the knobs.
            cut: its tokenizer, if that is not ours.
            sizes: characters and bytes of each document, int64, shape (documents, 2).

        Raises:
            EvaluationError: the model takes fewer tokens than it shall see.
        """
        from jalm.formats import batches, models, stretches

        self.model, self.stream, self.config, self.foreign, self.sizes = model, stream, config, cut is not None, sizes
        self.masked, kind, self.share = models.masked(model), models.architecture(model), processes.place()
        takes = min(models.positions(model) or LONGEST, LONGEST) if self.foreign else models.block_size(model)
        if config.block_size and config.block_size > takes:
            raise EvaluationError(f"block_size is {config.block_size}, but the model takes {takes} tokens; lower it")
        self.block_size = config.block_size or takes
        self.rows = max(1, min(config.batch_size, LOGITS // (self.block_size * model.config.vocab_size)))
        if self.rows < config.batch_size:
            cli.log.info("%d blocks at once, not batch_size %d: their logits are large", self.rows, config.batch_size)
        if self.masked:
            self.masking = batches.Masking(config.mlm_probability)
            self.wrapping = stretches.of(cut) if cut else stretches.ours(kind)
        self.feed = batches.Feed(kind, self.block_size, model.config.vocab_size, self.masking if self.masked else None)
        self.text = {key: stream.manifest[key] for key in ("documents", "characters", "bytes")}
        self.marks = getattr(stream, "marks", (1, 1))

    def figures(self) -> dict:
        """All that is measured.

        Raises:
            EvaluationError: nothing is predicted, or the loss is no number.
        """
        from jalm.formats import scores

        if self.masked and self.foreign:
            score = scores.Score(self._stretches(masking=self.masking))
        else:
            score = scores.score(self.model, self.feed, self.stream, self.rows, None, *self.share).of_all()
        self._check(score.tokens.nats, score.tokens.count)
        made = {"objective": MASKED_TOKENS if self.masked else NEXT_TOKEN, "block_size": self.block_size}
        made |= report(score, self.masked, self.text)
        if self.masked:
            made["mlm_probability"] = self.config.mlm_probability
        else:
            made["loss_by_position"] = score.by_position
        if self.masked and "pseudo_perplexity" in self.config.measures:
            alone = self._stretches(most=self.config.pseudo_tokens)
            self._check(alone.nats, alone.count)
            made |= {"pseudo_perplexity": math.exp(alone.loss), "pseudo_tokens": alone.count}
        if not self.masked and "sliding" in self.config.measures:
            made["sliding"] = self._sliding(score)
        if not self.masked and "by_document" in self.config.measures:
            made["by_document"] = self._by_document()
        count = self.stream.manifest
        if "unknown_tokens" in count:
            in_bytes = count["byte_tokens"] / count["tokens"] if count["byte_fallback"] else None
            made |= {"unknown_share": count["unknown_tokens"] / count["tokens"], "byte_share": in_bytes}
        return made | self.text | {"tokens": self.stream.tokens}

    def _stretches(self, masking: "batches.Masking | None" = None, most: int = 0) -> "scores.Sums":
        """Sums over what is masked in stretches of the documents: a share of each, or else some tokens alone."""
        from jalm.formats import scores, stretches

        room = self.block_size - len(self.wrapping.before) - len(self.wrapping.behind)
        what = (self.stream, self.marks, room, self.wrapping)
        vocab_size = self.model.config.vocab_size
        found = stretches.masked(*what, masking, vocab_size) if masking else stretches.alone(*what, most)
        fed = self.rows * self.block_size
        sums = stretches.score(self.model, self.wrapping, found, fed, *self.share)
        nats, count, correct = processes.summed([sums.nats, sums.count, sums.correct]).tolist()
        return scores.Sums(nats, int(count), int(correct))

    def _sliding(self, score: "scores.Score") -> dict:
        """Figures of a window that slides by half its size; `score` is that of the disjoint blocks."""
        from jalm.formats import scores

        half, rows = self.block_size // 2, scores.between(self.stream, self.block_size)
        made = scores.nats_of(self.model, self.feed, rows, self.rows, *self.share)
        nats, count = processes.summed(sum(some.sum(axis=0) for some in made)).tolist()
        figures = rates(nats + score.nats_at[half:].sum(), count + score.count_at[half:].sum(), self.text)
        return figures | {"stride": half}

    def _by_document(self) -> dict:
        """Figures of each document alone."""
        from jalm.formats import scores

        what = (self.model, self.feed, self.stream, self.rows, self.marks[1])
        made = processes.summed(scores.by_document(*what, *self.share))
        nats, count = made.sum(axis=0).tolist()
        self._check(nats, count)
        figures = rates(nats, count, self.text)
        if self.sizes is not None and np.count_nonzero(characters := self.sizes[:, 0]) > 1:
            some = characters > 0
            low, high = scores.interval(made[some, 0] / math.log(2), characters[some])
            figures["bits_per_character_interval"] = [low, high]
        return figures | {"first_token": getattr(self.stream, "first", BOS)}

    def _check(self, nats: float, count: float) -> None:
        if not count:
            raise EvaluationError(
                f"{self.stream.path} has {self.stream.tokens} tokens, of which none is predicted; take a larger test set"
            )
        if not abs(nats) < LARGEST * count:
            bad = [name for name, weights in self.model.named_parameters() if not weights.isfinite().all()]
            why = f"no numbers are among the weights {', '.join(bad[:3])}" if bad else "though its weights are finite"
            raise EvaluationError(f"the loss of the model is {nats / count}, {why}; take another model or checkpoint")


def of_shards(args: argparse.Namespace, config: Evaluate, model: "PreTrainedModel") -> Judge:
    """What judges a model on the shards of a corpus.

    Raises:
        EvaluationError: they are in the tokens of another tokenizer, or the documents are not theirs.
    """
    from jalm.formats import models, texts

    shards = Shards(args.test)
    said, have = shards.manifest, models.tokenizer_of(args.model)
    if said["vocab_size"] != model.config.vocab_size or (have and have != said["tokenizer"]):
        raise EvaluationError(
            f"{args.test} is in the tokens of another tokenizer (of {said['vocab_size']:,} pieces, SHA-256 "
            f"{said['tokenizer'][:12]}...) than {args.model} ({model.config.vocab_size:,} pieces, {have[:12] or 'unknown'}...); "
            "give shards of its own, or text with --text"
        )
    if not args.documents:
        return Judge(model, shards, config)
    found = (texts.size(documents.text(some)) for path in args.documents for some in documents.read(path))
    sizes = np.array(list(found), dtype=np.int64).reshape(-1, 2)
    if (len(sizes), *sizes.sum(axis=0)) != tuple(said[key] for key in ("documents", "characters", "bytes")):
        raise EvaluationError(
            f"--documents has {len(sizes):,} documents of {sizes[:, 0].sum():,} characters, {args.test} says "
            f"{said['documents']:,} of {said['characters']:,}; give those that it was made of, in the order of its parts"
        )
    return Judge(model, shards, config, sizes=sizes)


def of_text(args: argparse.Namespace, config: Evaluate, model: "PreTrainedModel") -> Judge:
    """What judges a model on raw text.

    Raises:
        EvaluationError: the tokenizer is not that of the model.
    """
    from jalm.formats import models, texts

    source = args.tokenizer or args.model
    have, given = models.tokenizer_of(args.model), models.tokenizer_of(folder_of(source))
    if have and given and have != given:
        raise EvaluationError(
            f"the tokenizer {source} (SHA-256 {given[:12]}...) is not that of the training of {args.model} ({have[:12]}...); "
            "give its own with --tokenizer"
        )
    cut = texts.cutter(source, models.architecture(model))
    text = texts.Texts(texts.read(args.text), cut, args.text[0])
    pieces, known = len(cut), model.config.vocab_size
    if text.largest >= known or not models.belong(pieces, known):
        raise EvaluationError(
            f"the tokenizer {source} has {pieces:,} pieces and gives the token {text.largest}, but the model has {known:,} pieces; "
            "give its own with --tokenizer"
        )
    if pieces != known:
        cli.log.info("the tokenizer has %s pieces, the model %s", f"{pieces:,}", f"{known:,}")
    foreign = models.architecture(model) not in models.CLASSES or not texts.ours(cut)
    return Judge(model, text, config, cut if foreign else None, text.sizes)


def folder_of(tokenizer: Path) -> Path:
    """Where a tokenizer lies, of which the folder or a file is given."""
    return tokenizer.parent if tokenizer.is_file() else tokenizer


def name_of(model: Path) -> str:
    """What a model is called: its folder, of a checkpoint with the model's in front."""
    folder = model.resolve()
    return f"{folder.parents[2].name}:{folder.name}" if folder.parent.name == "checkpoints" else folder.name


def name_of_text(args: argparse.Namespace) -> str:
    """What a test set is called that has no name: its corpus and side, or its first file."""
    if args.test:
        return "-".join(args.test.resolve().parts[-3:-1])
    return args.text[0].resolve().name.split(".")[0]


def lines(record: dict, before: str = "") -> list[str]:
    """A record for reading."""
    made = []
    for key, value in record.items():
        if isinstance(value, dict):
            made += lines(value, f"{before}{key}.")
        else:
            forms = {float: "{:,.4f}", int: "{:,}", type(None): "-"}
            words = [forms.get(type(one), "{}").format(one) for one in (value if isinstance(value, list) else [value])]
            made.append(f"{before + key:<42} {' '.join(words)}")
    return made


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Evaluate, "evaluate")
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="folder of a model, or a name on the Hub"
    )
    judged = parser.add_mutually_exclusive_group(required=True)
    judged.add_argument("--test", type=Path, metavar="FILE", help="manifest of the test shards")
    judged.add_argument(
        "--text",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="documents (.jsonl.zst, .jsonl), .txt files, folders of such",
    )
    parser.add_argument(
        "--documents",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="those that --test was made of, for an interval",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="for --text, if --model has none: a tokenizer.json of ours, or a folder",
    )
    parser.add_argument("--name", help="name of the test set (default: that of its files)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the figures (.json)")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    parser.add_argument(
        "--cpus", type=int, default=1, metavar="N", help="threads on a machine without GPU (default: 1)"
    )
    args, config = cli.parse(parser, argv)
    number, _ = processes.place()
    if number:
        cli.log.setLevel(logging.ERROR)

    import torch

    from jalm.formats import models

    torch.set_num_threads(max(1, args.cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    with processes.met(Fault):
        try:
            model = models.whole(args.model).to(processes.device())
            judge = (of_shards if args.test else of_text)(args, config, model)
            figures = judge.figures()
        except torch.OutOfMemoryError:
            raise EvaluationError(
                f"{args.model} is more than the GPU's memory holds; lower batch_size, which is {config.batch_size}, or block_size"
            ) from None
    if number:
        return
    record = {"model": name_of(args.model), "test_set": args.name or name_of_text(args)}
    record |= {"tokenizer": folder_of(args.tokenizer).resolve().name} if args.tokenizer else {}
    record |= figures
    if args.output:
        with cli.writing(args.output) as (output,):
            output.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if args.json or not args.output:
        print(json.dumps(record, indent=2, ensure_ascii=False) if args.json else "\n".join(lines(record)))
    made = f"perplexity {figures['perplexity']:.2f}"
    if "bits_per_character" in figures:
        made += f", {figures['bits_per_character']:.3f} bits a character"
    if "pairs" in figures:
        made += f", next sentence right in {figures['nsp_accuracy']:.1%} of {figures['pairs']:,} pairs"
    cli.closing("evaluate", f"{figures['tokens']:,} tokens", made)
