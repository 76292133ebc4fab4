"""A corpus so small that tests can make a tokenizer, shards and models of it, by the stages themselves."""

import json
import re
import shlex
import signal
import subprocess
import time
from functools import cached_property
from pathlib import Path
from unittest import mock

from jalm.config import SIDES, Evaluate, Export, Generation, NoKnobs, Pretrain, TrainTokenizer
from jalm.formats import documents
from jalm.knobs import Section, flags

WIKI = Path(__file__).parent / "wiki/20261001"

DIFFICULT = [  # paragraphs that break tokenizers
    "「え？」と彼は言った。『モーニング娘。』の曲が1,234,567円もするなんて",
    "ﾊﾝｶｸｶﾅとＺＥＮＫＡＫＵ、①㈱㍿㌖、１０〜２０～３０",
    "家族👨‍👩‍👧‍👦と𠮷野家で🇯🇵、か\u3099き氷 é e\u0301",
    "本文に[MASK]や</s>、<0x41>、<pad>と書いた人がいる。",
    "  行頭の空白　全角の空白  　行末の空白 　",
    "",
    "あ" * 3000 + "w" * 3000,
    "0\0と\t制御文字\u200b\ufeff\u202e、未割り当て\U000e0fff、私用\ue000",
]


def log_of(folder: Path) -> list[dict]:
    """Lines of the log.jsonl of a model or state, but for what the machine did."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    machine = {"tokens_per_second", "mfu", "memory_gib"}
    return [{key: value for key, value in record.items() if key not in machine} for record in records]


def wait_for(lines: int, folder: Path, process: subprocess.Popen) -> None:
    """Return as soon as a training with its states in `folder` has written so many lines of its log."""
    deadline = time.monotonic() + 120
    while sum(path.read_bytes().count(b"\n") for path in folder.glob("states/*/log.jsonl")) < lines:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def model(architecture: str, block_size: int = 24, seed: int = 0, **sizes: object):
    """A model of 400 pieces with random weights, large enough that every logit depends on what it is fed."""
    import torch

    from jalm.formats import models

    torch.manual_seed(seed)
    sizes = Tiny.config(architecture).config.model_dump() | {"initializer_range": 0.3} | sizes
    return models.build(architecture, sizes, 400, block_size).eval()


def others(folder: Path, masked: bool, lines: list[str], **sizes: object) -> Path:
    """A Hugging Face folder of other people: a GPT-2 with one special token, whose id is 0, or a BERT with WordPiece.

    Their weights are random.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    if masked:
        special = ["[UNK]", "[SEP]", "[CLS]", "[PAD]", "[MASK]"]
        tokenizer = Tokenizer(models.WordPiece(unk_token=special[0]))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.train_from_iterator(lines, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
        ends = [(piece, tokenizer.token_to_id(piece)) for piece in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        names = dict(zip(("unk_token", "sep_token", "cls_token", "pad_token", "mask_token"), special, strict=True))
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = BertConfig(max_position_embeddings=24, initializer_range=0.3, pad_token_id=3, **shape)
    else:
        tokenizer, names = Tokenizer(models.BPE()), {"bos_token": "<|end|>", "eos_token": "<|end|>"}
        tokenizer.pre_tokenizer, tokenizer.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet)
        tokenizer.train_from_iterator(lines, trainer)
        shape = {"n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
        config = GPT2Config(initializer_range=0.3, **shape)
    config.update({"vocab_size": tokenizer.get_vocab_size(), **sizes})
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    (BertForMaskedLM if masked else GPT2LMHeadModel)(config).save_pretrained(folder)
    return folder


class Tiny:
    """The wiki in tests/wiki as a corpus, and what the stages make of it on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @staticmethod
    def arguments(section: Section, **options: object) -> list[str]:
        """Command line of a stage: all knobs of `section`, then its files."""
        argv = shlex.split(f"{flags(section)} {flags(section, neutral=True)}")
        for name, value in options.items():
            argv += ["--" + name.replace("_", "-"), *map(str, value if isinstance(value, list) else [value])]
        return argv

    @cached_property
    def documents(self) -> dict[str, list[Path]]:
        """Two parts of segmented documents for each side; `summary.json` lies beside them."""
        sources = sorted(WIKI.glob("*.wiki"))
        texts = [re.sub(r"\[\[(?:[^\]|]*\|)?|\]\]|'{2,}", "", path.read_text(encoding="utf-8")) for path in sources]
        prose = [[line for line in text.splitlines() if line.endswith("。")] for text in texts]
        everything = [
            {"id": number, "title": str(number), "paragraphs": [re.findall(r".*?。|.+$", line) for line in lines]}
            for number, lines in enumerate([DIFFICULT, *filter(None, prose)])
        ]
        files, summary = {}, {}
        for side, chosen in zip(
            SIDES, (everything[1:-14], everything[-14:-7], [*everything[-7:], everything[0]]), strict=True
        ):
            files[side] = [self.root / f"{side}-{part}.jsonl.zst" for part in range(2)]
            for part, path in enumerate(files[side]):
                with documents.writing(path) as writer:
                    for document in chosen[part::2]:
                        writer.write(document)
            text = [documents.text(document) for document in chosen]
            sizes = {"characters": sum(map(len, text)), "bytes": sum(len(t.encode()) for t in text)}
            sizes |= {"sentences": sum(len(line) for document in chosen for line in document["paragraphs"])}
            summary[side] = {"documents": len(chosen), **sizes}
        (self.root / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        return files

    @cached_property
    def tokenizer(self) -> dict[str, Path]:
        """Its `spm.model` as `model`, and its tokenizer.json as `tokenizer`."""
        from jalm.stages import train_tokenizer

        made = {"model": self.root / "spm.model", "tokenizer": self.root / "tokenizer.json"}
        config = TrainTokenizer(corpora=["wiki"], vocab_size=2000, character_coverage=0.98, num_threads=2)
        files = {"documents": ["wiki", *self.documents["train"]], "sample": self.sample}
        train_tokenizer.main(self.arguments(config, **files, **made))
        return made

    @property
    def sample(self) -> Path:
        """What it was made from."""
        return self.root / "sample.json"

    @cached_property
    def shards(self) -> dict[str, Path]:
        """Manifest of each side."""
        from jalm.stages import shard, shard_manifest

        files = {side: [self.root / side / f"{part:03d}.bin" for part in range(2)] for side in SIDES}
        for part in range(2):
            options = {side: self.documents[side][part] for side in SIDES}
            options |= {f"{side}_tokens": files[side][part] for side in SIDES}
            shard.main(self.arguments(NoKnobs(), **options, **self.tokenizer))
        manifests = {side: self.root / side / "manifest.json" for side in SIDES}
        options = {f"{side}_manifest": manifests[side] for side in SIDES}
        options |= {"summary": self.root / "summary.json", "model": self.tokenizer["model"]}
        shard_manifest.main(self.arguments(NoKnobs(), **files, **options))
        return manifests

    @staticmethod
    def config(architecture: str, dropout: float = 0.0, **knobs: object) -> Pretrain:
        """Knobs of a training of 2 layers, width 32, 32 tokens, on the CPU in full precision."""
        drop = {
            "gpt2": ("resid_pdrop", "embd_pdrop"),
            "gpt_neo": ("resid_dropout", "embed_dropout"),
            "llama": ("attention_dropout",),
            "modernbert": ("embedding_dropout", "mlp_dropout"),
        }.get(architecture, ("hidden_dropout_prob",))
        layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
        sizes = {
            "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 32},
            "gpt_neo": {"num_layers": 2, "num_heads": 2, "hidden_size": 32, "window_size": 8},
            "llama": layers | {"num_key_value_heads": 1},
            "modernbert": layers | {"local_attention": 8, "global_attn_every_n_layers": 2},
        }.get(architecture, layers)
        common = {"block_size": 32, "global_batch_size": 8, "per_device_train_batch_size": 8, "max_steps": 40}
        common |= {"learning_rate": 5e-3, "mixed_precision": "no", "logging_steps": 1, "corpora": {"wiki": 1.0}}
        config = sizes | dict.fromkeys(drop, dropout)
        return Pretrain(architecture=architecture, config=config, **common | knobs)

    def training(self, config: Pretrain, folder: Path, **options: object) -> list[str]:
        """Arguments of the pretrain stage, its states and output in `folder`."""
        files = {"train": self.shards["train"], "valid": self.shards["valid"]} | options
        return self.arguments(config, states=folder / "states", output=folder / "output", **files)

    def pretrain(self, config: Pretrain, folder: Path, **options: object) -> Path:
        """Run the pretrain stage here, its states and output in `folder`; the output."""
        import torch
        from accelerate.state import AcceleratorState

        from jalm.stages import pretrain

        torch._dynamo.reset()  # which counts all trainings of a process, and after some compiles none
        AcceleratorState._reset_state(reset_partial_state=True)  # the precision of the last training
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        try:
            pretrain.main(self.training(config, folder, **options))
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return folder / "output"

    def model(self, architecture: str) -> Path:
        """A trained model."""
        output = self.root / architecture / "output"
        return output if output.exists() else self.pretrain(self.config(architecture), self.root / architecture)

    def evaluation(self, architecture: str) -> Path:
        """Figures of that model on the test side."""
        from jalm.stages import evaluate

        output = self.root / f"{architecture}.json"
        if not output.exists():
            options = {"model": self.model(architecture), "test": self.shards["test"], "name": "wiki"}
            evaluate.main(self.arguments(Evaluate(), output=output, **options))
        return output

    def exported(self, architecture: str) -> Path:
        """Hugging Face folder of that model."""
        output = self.root / "export" / architecture
        if not output.exists():
            self.export(architecture, output)
        return output

    @cached_property
    def account(self) -> Path:
        """What became of it in each stage."""
        path = self.root / "wiki" / "account.json"
        path.parent.mkdir(exist_ok=True)
        sides = json.loads((self.documents["test"][0].parent / "summary.json").read_text(encoding="utf-8"))
        whole = {key: sum(side[key] for side in sides.values()) for key in sides["test"]}
        intake = {"in": whole["documents"] + 7, "out": whole["documents"], "dropped": {"redirects": 5, "empty": 2}}
        stages = {"intake": intake, "filter": {"in": whole, "out": whole, "dropped": {}}}
        stages["dedup"] = {"contamination": {"before": {"train": 0, "valid": 0}, "after": {"train": 0, "valid": 0}}}
        path.write_text(json.dumps(stages | {"split": {"out": sides, "dropped": {}}}), encoding="utf-8")
        return path

    def export(self, architecture: str, output: Path, **options: object) -> None:
        """Run the export stage; `config` in place of the knobs, and what others see seen in this process."""
        from jalm.formats import outsider, proof
        from jalm.stages import export

        data = [{"name": "wiki", "license": "CC-BY-SA-4.0", "attribution": "執筆者: https://ja.wikipedia.org"}]
        config = options.pop(
            "config", Export(name=f"{architecture}-tiny", generation=Generation(max_new_tokens=8), data=data)
        )
        files = {"model": self.model(architecture), "evaluation": self.evaluation(architecture)}
        files |= {"spm": self.tokenizer["model"], "tokenizer": self.tokenizer["tokenizer"]}
        files |= {"sample": self.sample, "texts": self.documents["test"], "account": self.account, "output": output}
        with mock.patch.object(proof, "outside", outsider.observe):
            export.main(self.arguments(config, **files | options))
