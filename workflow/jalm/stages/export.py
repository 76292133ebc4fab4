"""Make the Hugging Face folder that others load with plain AutoTokenizer and AutoModel.

The folder takes its place only after it was loaded again, its tokenizer gave the ids of SentencePiece and its model the
logits of the trained one on text of the test side.
"""

import json
import re
import shutil
from itertools import chain, islice
from pathlib import Path

import yaml

from jalm import Fault, cli
from jalm.config import Export
from jalm.formats import documents

CHECKED = 200  # documents that the exported tokenizer is compared on
SPELT = ["[MASK] </s> <0x41> <pad>", "～〜ﾊﾝｶｸ ①㈱", " 　先頭と末尾の空白 ", "👨‍👩‍👧‍👦 𠮷野家 é", "▁_\t\n"]


class ExportError(Fault):
    """An exported folder that does not behave like what it was made from."""


def card(config: Export, evaluations: list[dict], training: dict, masked: bool) -> str:
    """The model card, made from measured facts only."""
    licenses = sorted({entry["license"] for entry in config.data})
    one_known = len(licenses) == 1 and re.fullmatch(r"[A-Za-z0-9.+-]+", licenses[0])  # as SPDX and the Hub name them
    task = "fill-mask" if masked else "text-generation"
    example = "日本の首都は[MASK]である。" if masked else "日本の首都は"
    rows = [
        f"| {e['test_set']} | {e['loss']:.4f} | {e['perplexity']:.2f} | "
        + (f"{e['bits_per_character']:.3f}" if "bits_per_character" in e else f"accuracy {e['accuracy']:.3f}")
        + f" | {e['predicted_tokens']:,} |"
        for e in evaluations
    ]
    data = [f"- {e['name']} ({e['license']}){': ' + e['attribution'] if e['attribution'] else ''}" for e in config.data]
    header = {
        "language": "ja",
        **(
            {"license": licenses[0].lower()} if one_known else {"license": "other", "license_name": ", ".join(licenses)}
        ),
        "pipeline_tag": task,
        "library_name": "transformers",
        "widget": [{"text": example}],
    }
    return f"""---
{yaml.safe_dump(header, allow_unicode=True, sort_keys=False).strip()}
---

# {config.name}

A Japanese {"masked" if masked else "causal"} language model of {training["parameters"]:,} parameters, trained from scratch
for {training["steps"]:,} steps on {training["tokens"]:,} tokens.

```python
from transformers import pipeline

pipe = pipeline("{task}", model="{config.name}")
print(pipe("{example}"))
```

## Evaluation

On the test side of each corpus, {"on masked tokens" if masked else "in disjoint blocks"}.

| test set | loss (nats) | perplexity | {"" if masked else "bits per character"} | predicted tokens |
|---|---|---|---|---|
{chr(10).join(rows)}

## Training data

{chr(10).join(data)}

The text of these corpora is under the licences named; whoever passes the model on should name their authors too.

## Limits

The model repeats what its training text says, errors and prejudices included. It was not tuned to follow instructions.
"""


def check_tokenizer(folder: Path, texts: list[str]) -> None:
    """Compare the exported tokenizer, loaded as others load it, with SentencePiece.

    Raises:
        ExportError: ids or decoded text differ.
    """
    import sentencepiece
    from transformers import AutoTokenizer

    exported = AutoTokenizer.from_pretrained(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    backend = exported.backend_tokenizer
    backend.encode_special_tokens = True  # text that spells a special token is text here
    for text in texts:
        want = pieces.encode(backend.normalizer.normalize_str(text))
        have = backend.encode(text, add_special_tokens=False).ids
        if have != want:
            place = next(
                (n for n, (a, b) in enumerate(zip(have, want, strict=False)) if a != b), min(len(have), len(want))
            )
            raise ExportError(
                f"the exported tokenizer gives {have[place : place + 5]} where SentencePiece gives "
                f"{want[place : place + 5]}, at token {place} of {text[:60]!r}"
            )
        if exported.decode(have) != pieces.decode(want):
            raise ExportError(f"the exported tokenizer decodes the ids of {text[:60]!r} otherwise than SentencePiece")


def check_model(folder: Path, trained: Path, text: str) -> None:
    """Compare the logits of the exported model with those of the trained one.

    Raises:
        ExportError: they differ.
    """
    import torch
    from transformers import AutoTokenizer

    from jalm.formats import models

    exported, original = models.load(str(folder)), models.load(str(trained))
    length = models.block_size(exported)
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True, max_length=length)
    with torch.no_grad():
        difference = (exported(**inputs).logits - original(**inputs).logits).abs().max().item()
    if difference:
        raise ExportError(f"logits of the exported model differ from the trained one's by up to {difference}")


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Export, "export")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the trained model")
    parser.add_argument("--spm", type=Path, required=True, metavar="FILE", help="its SentencePiece model")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="FILE", help="the same as tokenizer.json")
    parser.add_argument("--evaluation", type=Path, nargs="+", required=True, metavar="FILE", help="its figures (.json)")
    parser.add_argument(
        "--texts", type=Path, nargs="+", required=True, metavar="FILE", help="documents to check the export on"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the Hugging Face folder")
    args, config = cli.parse(parser, argv)

    import tokenizers
    import transformers

    from jalm.formats import models, tokenizer

    model = models.load(str(args.model))
    architecture = models.architecture(model)
    masked = architecture in models.MASKED
    evaluations = [json.loads(path.read_text(encoding="utf-8")) for path in args.evaluation]
    training = json.loads((args.model / "training.json").read_text(encoding="utf-8"))
    texts = [documents.text(d) for d in islice(chain.from_iterable(map(documents.read, args.texts)), CHECKED)]
    with cli.writing(args.output) as (folder,):
        folder.mkdir()
        if not masked:
            special = {key: getattr(model.config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
            defaults = config.generation.model_dump()
            if not defaults["do_sample"]:  # these would only draw a warning
                defaults = {key: defaults[key] for key in ("do_sample", "max_new_tokens")}
            model.generation_config = transformers.GenerationConfig(**defaults, **special)
        model.save_pretrained(folder)
        exported = tokenizers.Tokenizer.from_file(str(args.tokenizer))
        tokenizer.save(exported, folder, architecture, models.block_size(model))
        shutil.copyfile(args.spm, folder / "spm.model")
        shutil.copyfile(args.model / "log.jsonl", folder / "log.jsonl")
        (folder / "evaluation.json").write_text(json.dumps(evaluations, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card(config, evaluations, training, masked), encoding="utf-8")
        check_tokenizer(folder, [*SPELT, *texts])
        check_model(folder, args.model, texts[0] if texts else SPELT[1])
    made = f"{args.output.name}: {architecture}, {training['parameters']:,} parameters"
    cli.closing("export", f"{args.model.name}, checked on {len(texts) + len(SPELT):,} texts", made)
