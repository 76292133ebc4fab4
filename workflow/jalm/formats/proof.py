"""The proof of an exported folder: what it was compared with, and the digest of each of its files."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import sentencepiece
from safetensors.torch import load_file

from jalm import Fault
from jalm.formats import outsider, tokenizer
from jalm.formats.shards import digest

CHECKED = 200  # documents that the exported tokenizer is compared on
SEED = 0  # of what the pipeline draws
SPELT = [
    "",
    "[MASK] </s> <0x41> <pad>",
    "東京は[MASK]である。</s><s>[CLS]　[SEP] <unk>[MASK][mask] <0xe3><0x4a>",
    "～〜ﾊﾝｶｸ ①㈱",
    " 　先頭と末尾の空白 ",
    "👨‍👩‍👧‍👦 𠮷野家 é か\u3099",
    "▁_\t\n",
    "0\0\x01\x7f\u200b\ufeff\u202e\ue000\ufffd\uffff\U000e0fff\U0010ffff",
    "ＡＢＣ Łódź İi ß ΑΣ 龘麤鱻 한국어 עברית",
    "ーー" * 500 + "w" * 500 + " " * 500,
]
COPIES = {"lm_head.decoder.bias": "lm_head.bias"}  # weights that an export has twice, for transformers 4


class ExportError(Fault):
    """An exported folder that does not behave like what it was made from."""


def prove(folder: Path, trained: Path, architecture: str, task: str, length: int, texts: list[str], prompts: list[str]):
    """Compare a folder, as others load it, with what it was made from.

    Args:
        folder: the export, with its `spm.model`.
        trained: the model that it was made from.
        architecture: of the model.
        task: of the pipeline that the folder is for.
        length: tokens that the model takes.
        texts: real ones.
        prompts: for the pipeline.

    Returns:
        Names of the checks passed, and what the pipeline made of the prompts.

    Raises:
        ExportError: something differs.
    """
    check_weights(folder, trained)
    spelt = [*SPELT, *texts[:CHECKED]]
    pieces = expected(folder, spelt)
    compared = [texts[0], "\n".join(texts)] if texts else [SPELT[3]]  # one alone, and as many as the model takes
    request = {"folder": str(folder), "trained": str(trained), "task": task, "texts": spelt, "ids": pieces}
    seen = outside(request | {"compared": compared, "length": length, "prompts": prompts, "seed": SEED})
    check_tokenizer(folder, spelt, pieces, architecture, seen)
    check_logits(compared, seen)
    samples = check_pipeline(seen)
    return ["weights", "token ids", "decoded text", "logits", f"{task} pipeline"], samples


def outside(request: dict[str, Any]) -> dict[str, Any]:
    """What a fresh process with nothing but transformers observes; see `outsider.observe`.

    Raises:
        ExportError: it fails.
    """
    with tempfile.TemporaryDirectory() as name:
        asked, told = Path(name, "request.json"), Path(name, "answer.json")
        asked.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-P", outsider.__file__, asked, told]
        offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
        ran = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True)
        if ran.returncode == 0:
            return json.loads(told.read_text(encoding="utf-8"))
    if ran.returncode < 0:
        ended = signal.Signals(-ran.returncode).name
        raise ExportError(f"the process that loads the exported folder was ended by {ended}; give export more memory")
    steps = re.findall(r'outsider\.py", line \d+, in (\w+)', ran.stderr) or ["its start"]
    said = [line for line in ran.stderr.splitlines() if line.strip()] or ["nothing"]
    raise ExportError(
        f"a fresh process with plain transformers fails with the exported folder, in {steps[-1]}: {said[-1].strip()}"
    )


def check_weights(folder: Path, trained: Path) -> None:
    """Compare each weight of the folder with the trained one, bit by bit.

    Raises:
        ExportError: one is other, or is missing, or there are more.
    """
    have, want = (
        {n: t for p in sorted(at.glob("*.safetensors")) for n, t in load_file(p).items()} for at in (folder, trained)
    )
    want |= {name: want[of] for name, of in COPIES.items() if name in have and of in want}
    if have.keys() != want.keys():
        names = ", ".join(sorted(have.keys() ^ want.keys())[:5])
        raise ExportError(f"weights are in one of the exported and the trained model only: {names}")
    if other := [name for name in want if not have[name].equal(want[name]) or have[name].dtype != want[name].dtype]:
        raise ExportError(f"weights of the exported model are not those of the trained one: {', '.join(other[:5])}")


def expected(folder: Path, texts: list[str]) -> list[list[int]]:
    """Ids that SentencePiece gives, after the normaliser of the exported tokenizer."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    normalize = tokenizer.read_exported(folder / "tokenizer.json").normalizer.normalize_str
    return [pieces.encode(normalize(text)) for text in texts]


def check_tokenizer(
    folder: Path, texts: list[str], wanted: list[list[int]], architecture: str, seen: dict[str, Any]
) -> None:
    """Compare the exported tokenizer, alone and as others load it, with SentencePiece.

    Args:
        folder: the export.
        texts: texts.
        wanted: SentencePiece's ids of these.
        architecture: of the model, which decides what is put around a text.
        seen: what `outside` saw of these texts and ids.

    Raises:
        ExportError: ids or decoded text differ.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    alone, literal = (tokenizer.read_exported(folder / "tokenizer.json") for _ in range(2))
    literal.encode_special_tokens = True  # text that spells a special token is text here
    normalize = alone.normalizer.normalize_str
    begin, end = ([tokenizer.IDS[piece]] if piece else [] for piece in tokenizer.WRAPPING[architecture])
    special = re.compile("(" + "|".join(map(re.escape, tokenizer.SPECIAL)) + ")")

    def same(have: list[int], want: list[int], what: str, text: str) -> None:
        if have != want:
            place = next(
                (n for n, (a, b) in enumerate(zip(have, want, strict=False)) if a != b), min(len(have), len(want))
            )
            raise ExportError(
                f"the exported tokenizer gives {have[place : place + 5]} where {what} gives "
                f"{want[place : place + 5]}, at token {place} of {text[:60]!r}"
            )

    for text, want, ids, decoded in zip(texts, wanted, seen["ids"], seen["decoded"], strict=True):
        same(literal.encode(text, add_special_tokens=False).ids, want, "SentencePiece", text)
        if decoded != pieces.decode(want):
            raise ExportError(f"the exported tokenizer decodes the ids of {text[:60]!r} otherwise than SentencePiece")
        same(ids, alone.encode(text).ids, "tokenizer.json by itself", text)
        between = [
            [tokenizer.IDS[part]] if part in tokenizer.IDS else pieces.encode(normalize(part))
            for part in special.split(text)
        ]
        if (
            alone.pre_tokenizer is None or len(between) == 1
        ):  # a ▁ before a text is not put after each special token too
            same(ids, [*begin, *chain(*between), *end], "SentencePiece, between special tokens,", text)


def check_logits(texts: list[str], seen: dict[str, Any]) -> None:
    """Refuse logits that are not those of the trained model; of a BERT for pairs too.

    Raises:
        ExportError: they differ.
    """
    for text, difference in zip(texts, seen["differences"], strict=True):
        if difference != 0:
            raise ExportError(
                f"logits of the exported model differ from the trained one's by up to {difference}, on {text[:60]!r}"
            )


def check_pipeline(seen: dict[str, Any]) -> list[dict[str, Any]]:
    """What the pipeline made of each prompt.

    Raises:
        ExportError: its text is another around the mask, or does not begin with the prompt.
    """
    samples = []
    for sample in seen["samples"]:
        if "text" in sample:
            wrong = [sample["text"]] if not sample["text"].startswith(sample["prompt"]) else []
        else:
            before, after = sample["around"]
            texts = [candidate["text"] for candidate in sample["candidates"]]
            wrong = [text for text in texts if not (text.startswith(before) and text.endswith(after))] or not texts
        if wrong:
            raise ExportError(f"the pipeline answers {'nothing' if wrong is True else wrong} to {sample['prompt']!r}")
        samples.append({key: value for key, value in sample.items() if key != "around"})
    return samples


def digests(folder: Path, but: str = "") -> dict[str, str]:
    """SHA-256 of each file of a folder, by its path in it; `but` is one to leave out."""
    return {path.relative_to(folder).as_posix(): digest(path) for path in files(folder) if path != folder / but}


def files(folder: Path) -> list[Path]:
    """The files of a folder and of those in it."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
