"""Make the Hugging Face folder that others load with plain AutoTokenizer and AutoModel.

The folder takes its place only after a fresh process loaded it with nothing but transformers: its tokenizer gives the ids of
SentencePiece, its weights and logits are those of the trained model, on text of the test side, its pipeline runs. With it go
a model card of measured facts, a note on licences, and provenance.json: what the model was made from, by which code, on what, and the
digest of each file.
"""

import argparse
import copy
import datetime
import json
import os
import shutil
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jalm import Fault, __version__, cli
from jalm.config import Export
from jalm.formats import documents, outsider
from jalm.knobs import parse_flags
from jalm.sizes import MASKED

if TYPE_CHECKING:
    import torch
    from transformers import BertForMaskedLM, BertForPreTraining, PreTrainedModel

PROMPTS = {  # what the card shows, and the pipeline is tried with
    "text-generation": ["日本の首都は", "江戸時代の人々は、", "昨日、私は友人と"],
    "fill-mask": ["日本の首都は[MASK]である。", "京都は[MASK]の都市である。", "彼は毎朝、新聞を[MASK]。"],
}
PACKAGES = ("torch", "transformers", "tokenizers", "sentencepiece", "safetensors", "numpy")


class PromptError(Fault):
    """Defaults of generate() that leave no room for a prompt."""


def separated(model: "BertForPreTraining") -> tuple["BertForMaskedLM", dict[str, "torch.Tensor"]]:
    """A BERT that fills masks only, which the fill-mask pipeline takes, and the weights that it does without."""
    from transformers import BertForMaskedLM

    made, head = BertForMaskedLM(model.config).eval(), model.state_dict()
    made.load_state_dict({name: head.pop(name) for name in made.state_dict()})
    return made, head


def read(path: Path) -> Any:
    """Content of a JSON file; nothing if it is not there, as in what an older version made."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def knobs_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The knobs that a training was told, by name, out of its settings.json."""
    made = {}
    for name, value in parse_flags(settings.get("flags", "")).items():
        try:
            made[name] = json.loads(value)
        except json.JSONDecodeError:
            made[name] = value
    return made


def public(path: str) -> str:
    """A path as others are told it: below results/, which all have, else its name alone."""
    relative = os.path.relpath(path) if path else ""
    return relative if relative.startswith("results/") else Path(path).name


def public_first(model: str) -> str:
    """An init_model as others are told it: a name on the Hub as it is."""
    from jalm.formats import card

    return model if card.on_hub(model) else public(model)


def public_dump(manifest: dict[str, Any] | None) -> dict[str, Any] | None:
    """A manifest of download without what of it is on this machine only: the addresses of a local mirror."""
    if not manifest or not manifest.get("mirror", "").startswith("file:"):
        return manifest
    files = {name: {key: file[key] for key in file if key != "url"} for name, file in manifest["files"].items()}
    return {key: manifest[key] for key in manifest if key != "mirror"} | {"files": files}


def public_configuration(told: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose files are named without their folders: ids of documents are made from these names."""
    made = copy.deepcopy(told)
    for entry in [*made.get("corpora", {}).values(), *made.get("test_sets", {}).values()]:
        if "paths" in entry:
            entry["paths"] = [public(path) for path in entry["paths"]]
    for entry in made.get("tokenizers", {}).values():
        entry["model"] = public(entry["model"])
    for entry in made.get("models", {}).values():
        entry["init_model"] = public_first(entry["init_model"])
    return made


def digests_of(code: str) -> dict[str, str]:
    """Module to digest, out of `module@digest …`."""
    return dict(sorted(word.split("@") for word in code.split()))


def last_losses(log: Path) -> dict[str, float]:
    """The last losses in the log of a training."""
    found: dict[str, float] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        found |= {key: value for key, value in json.loads(line).items() if key in ("loss", "valid_loss")}
    return found


def versions(names: Iterable[str]) -> dict[str, str]:
    """Of packages that are installed."""
    made = {}
    for name in names:
        try:
            made[name] = version(name)
        except PackageNotFoundError:
            continue
    return made


def provenance(args: argparse.Namespace, config: Export) -> dict[str, Any]:
    """What a model was made from, by what, and when."""
    from jalm.formats import graph
    from jalm.formats.shards import digest
    from jalm.formats.tokenizer import read_exported

    # results/split/<corpus>/account.json, resources/<corpus>/manifest.json
    accounts, dumps = ({path.parent.name: read(path) for path in paths} for paths in (args.account, args.manifest))
    training, settings = read(args.model / "training.json"), read(args.model / "settings.json")
    sums = {"sha256": digest(args.spm), "vocab_size": read_exported(args.tokenizer).get_vocab_size()}
    last = (settings.get("runs") or [{}])[-1]
    told = {"recipe": settings.get("recipe"), "revision": last.get("revision"), "runs": settings.get("runs")}
    config_of = knobs_of(settings)
    for record in (training, config_of):
        if "init_model" in record:
            record["init_model"] = public_first(record["init_model"])
    return {
        "model": config.name,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "jalm": __version__,
        "revision": args.revision,
        "versions": versions([*PACKAGES, *(graph.NEEDED if config.onnx else ())]),
        "corpora": [
            {**entry, "dump": public_dump(dumps.get(entry["name"])), "account": accounts.get(entry["name"])}
            for entry in config.data
        ],
        "dictionary": args.dictionary,
        **({"templates": {"name": args.templates.name, "sha256": digest(args.templates)}} if args.templates else {}),
        "tokenizer": {**sums, "sample": read(args.sample)},
        "training": {
            **training,
            **{name: value for name, value in told.items() if value},
            **last_losses(args.model / "log.jsonl"),
        },
        "config": config_of,
        "code": {"pretrain": digests_of(last.get("code", "")), "export": digests_of(args.code)},
    }


def write_model(model: "PreTrainedModel", config: Export, folder: Path) -> "PreTrainedModel":
    """Write weights, config.json and, of a causal model, generation_config.json; the model as it is exported."""
    import transformers
    from safetensors.torch import save_file

    from jalm.formats import models

    architecture = models.architecture(model)
    if architecture not in MASKED:
        special = {key: getattr(model.config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        defaults = config.generation.model_dump()
        if not defaults["do_sample"]:  # these would only draw a warning
            defaults = {key: defaults[key] for key in ("do_sample", "max_new_tokens")}
        model.generation_config = transformers.GenerationConfig(**defaults, **special)
    if architecture == "bert":
        model, head = separated(model)
        save_file(head, folder / outsider.HEAD, {"format": "pt"})
    weights = model.state_dict()
    if architecture == "roberta":  # transformers 4 reads the bias under this name, and takes zeros where it is not
        weights["lm_head.decoder.bias"] = weights["lm_head.bias"].clone()
    model.save_pretrained(folder, state_dict=weights)
    return model


def write_tokenizer(args: argparse.Namespace, folder: Path, architecture: str, length: int) -> None:
    """Write the tokenizer, in the forms of tokenizers, transformers and SentencePiece."""
    from jalm.formats import tokenizer

    tokenizer.save(tokenizer.read_exported(args.tokenizer), folder, architecture, length)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(folder / "special_tokens_map.json", {k: v for k, v in settings.items() if k.endswith("_token")})
    shutil.copyfile(args.spm, folder / "spm.model")


def write_json(path: Path, content: Any) -> None:
    """Write JSON for readers, too."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def checked_prompts(folder: Path, task: str, length: int, new: int) -> list[str]:
    """The prompts of a task, with room for what is said after them.

    Raises:
        PromptError: there is none.
    """
    from jalm.formats import tokenizer

    encode = tokenizer.read_exported(folder / "tokenizer.json").encode
    longest = max(len(encode(prompt).ids) for prompt in PROMPTS[task])
    if task == "text-generation" and longest + new > length:
        raise PromptError(
            f"generation.max_new_tokens is {new}, which leaves no room for a prompt of {longest} tokens in the {length} "
            f"that the model takes; lower it to {max(1, length // 2)}"
        )
    return PROMPTS[task]


def main(argv: list[str] | None = None) -> None:
    """Run the stage."""
    parser = cli.parser(__doc__, Export, "export")

    def files(option: str, told: str, **options: Any) -> None:
        parser.add_argument(option, type=Path, metavar="FILE", help=told, **options)

    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the trained model")
    files("--spm", "its SentencePiece model", required=True)
    files("--tokenizer", "the same as tokenizer.json", required=True)
    files("--sample", "what its tokenizer was made from (.json)", required=True)
    files("--evaluation", "its figures (.json)", nargs="+", required=True)
    files("--texts", "documents to check the export on", nargs="+", required=True)
    files("--account", "results/split/<corpus>/account.json of its corpora", nargs="*", default=[])
    files("--manifest", "resources/<corpus>/manifest.json of those from a dump", nargs="*", default=[])
    files("--templates", "its maker's table of templates, recorded")
    parser.add_argument("--earlier", type=Path, metavar="DIR", help="the exported folder that it takes the place of")
    parser.add_argument("--code", default="", help="digests of the code, recorded")
    parser.add_argument("--revision", default="", help="git revision, recorded")
    parser.add_argument("--dictionary", default="", help="version and digest of segment's dictionary, recorded")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the Hugging Face folder")
    args, config = cli.parse(parser, argv)

    from transformers import AutoTokenizer

    from jalm.formats import card, changelog, graph, harness, models, proof

    model = models.load(args.model)
    architecture, length = models.architecture(model), models.block_size(model)
    task = "fill-mask" if architecture in MASKED else "text-generation"
    evaluations = [json.loads(path.read_text(encoding="utf-8")) for path in args.evaluation]
    texts = [documents.text(d) for d in islice(chain.from_iterable(map(documents.read, args.texts)), proof.CHECKED)]
    made = provenance(args, config)
    with cli.writing(args.output) as (folder,):
        folder.mkdir()
        model = write_model(model, config, folder)
        made["training"]["parameters"] = model.num_parameters()
        write_tokenizer(args, folder, architecture, length)
        prompts = checked_prompts(folder, task, length, config.generation.max_new_tokens)
        checks, samples = proof.prove(folder, args.model, architecture, task, length, texts, prompts)
        if config.onnx:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            graph.write(model, tokenizer, folder / graph.NAME)
            difference = graph.check(folder / graph.NAME, model, tokenizer, texts or [proof.SPELT[3]])
            cli.log.info("%s: logits differ by up to %.1e", graph.NAME, difference)
            checks.append(f"{graph.NAME} within {graph.TOLERANCE:g}")
        made["proof"] = {"checks": checks, "texts": len(proof.SPELT) + len(texts)}
        shutil.copyfile(args.model / "log.jsonl", folder / "log.jsonl")
        write_json(folder / "evaluation.json", evaluations)
        write_json(folder / "samples.json", samples)
        if config.configuration:
            told = yaml.safe_dump(public_configuration(config.configuration), allow_unicode=True, sort_keys=False)
            (folder / "configuration.yaml").write_text(told, encoding="utf-8")
        (folder / "LICENSE").write_text(card.note(config.name, config.license, made["corpora"]), encoding="utf-8")
        if args.earlier:
            told = changelog.write(args.earlier, made, evaluations)
            (folder / changelog.NAME).write_text(told, encoding="utf-8")
        if task == "text-generation":
            (folder / harness.PATH).parent.mkdir()
            (folder / harness.PATH).write_text(harness.task(config.name, "test.jsonl"), encoding="utf-8")
        names = {path.relative_to(folder).as_posix() for path in proof.files(folder)}
        facts = card.Facts(
            made, architecture, task, length, config.license, evaluations, samples, names, config.repo_id
        )
        (folder / "README.md").write_text(card.write(facts), encoding="utf-8")
        for path in proof.files(folder):  # weights come readable for their owner only
            shutil.copymode(folder / "README.md", path)
        made["proof"]["files"] = proof.digests(folder, but=changelog.NAME)
        write_json(folder / "provenance.json", made)
    told = f"{args.output.name}: {architecture}, {model.num_parameters():,} parameters"
    cli.closing("export", f"{args.model.name}, checked on {made['proof']['texts']:,} texts ({', '.join(checks)})", told)
