"""What a model in use answers: completions of a text, pieces for its masks, what comes next, how likely its words are.

Any Hugging Face folder is used, of ours or not: what a tokenizer puts around texts, and what it lacks, is taken as it is.
"""

import inspect
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jalm import Fault
from jalm.formats import objectives

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LENGTH = 100  # tokens of a completion where neither who asks nor the folder says
LOGITS = 2**26  # at once, where there is a choice
BROKEN = "the model of {} gives NaN for probabilities; its training went wrong"


class FolderError(Fault):
    """A folder that no model can be used from."""


class PromptError(Fault):
    """A prompt that the model can do nothing with."""


@dataclass
class Used:
    """A model in use.

    Attributes:
        folder: where it is from.
        tokenizer: its tokenizer.
        model: on a GPU if there is one.
        room: tokens that it takes at once.
    """

    folder: Path
    tokenizer: "PreTrainedTokenizerBase"
    model: "PreTrainedModel"
    room: int

    @property
    def special(self) -> set[int]:
        """Tokens that stand for no text; what is unknown is text."""
        return set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}

    @property
    def begin(self) -> list[int]:
        """What texts begin with, or the end that was between them in training; perhaps nothing."""
        known = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return [token for token in known if token is not None][:1]

    def encode(self, text: str, special: bool = False, **options: object) -> dict[str, list[int]]:
        """Inputs of a text; `special` tells whether text that spells a special token is that token.

        Raises:
            PromptError: it is no Unicode, or has a token that the model lacks.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PromptError(
                f"{text!r} is not in the encoding of this terminal, which is {sys.stdin.encoding}"
            ) from None
        inputs = dict(self.tokenizer(text, split_special_tokens=not special, verbose=False, **options))
        if max(inputs["input_ids"], default=0) >= self.model.config.vocab_size:
            name = self.tokenizer.convert_ids_to_tokens(max(inputs["input_ids"]))
            raise PromptError(
                f"the prompt has {name}, which the tokenizer of {self.folder} knows and its model does not"
            )
        return inputs

    def begun(self, prompt: str, special: bool = False) -> list[int]:
        """Tokens of a prompt as the tokenizer gives them, but for an end that it puts behind each text; at least one.

        Raises:
            PromptError: it has none, and nothing to begin with.
        """
        bare = self.encode(prompt, special, add_special_tokens=False)["input_ids"]
        ids, end = self.encode(prompt, special)["input_ids"], [self.tokenizer.eos_token_id]
        if ids[-1:] == end != bare[-1:] and (bare or ids != self.begin):
            ids = ids[:-1]
        as_tokens = self.tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
        if not special and (spelt := self.special.intersection(as_tokens)):
            note(
                f"{' '.join(self.tokenizer.convert_ids_to_tokens(sorted(spelt)))} in the prompt is text; --special makes it a token"
            )
        if not (ids or self.begin):
            raise PromptError(
                f"the prompt is empty, and the tokenizer of {self.folder} has nothing to begin with; write a word"
            )
        return ids or self.begin

    def piece(self, token: int) -> str:
        """A token for reading: its text, in which what is no whole character stays bytes."""
        text = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        name = self.tokenizer.convert_ids_to_tokens(token) or ""
        if "\ufffd" in text:
            from transformers.convert_slow_tokenizer import bytes_to_unicode

            byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
            if byte_of.keys() >= set(name):
                return bytes(byte_of[character] for character in name).decode(errors="backslashreplace")
        return text or name

    def said(self, before: list[int], new: list[int]) -> str:
        """Text that tokens add to those before them."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        context = before[-8:]  # because a decoder may take a space from the beginning of a text
        known, whole = (self.tokenizer.decode(ids, **options) for ids in (context, context + new))
        return whole.removeprefix(known) if whole.startswith(known) else self.tokenizer.decode(new, **options)

    def logits(self, **inputs: object) -> "torch.Tensor":
        """Logits of a batch, shape (B, T, V), in full precision.

        Raises:
            FolderError: they are no numbers.
        """
        import torch

        known = inspect.signature(self.model.forward).parameters
        tensors = {
            name: torch.as_tensor(value).to(self.model.device) for name, value in inputs.items() if name in known
        }
        with torch.no_grad():
            logits = self.model(**tensors).logits.float()
        if logits.isnan().any():
            raise FolderError(BROKEN.format(self.folder))
        return logits

    def likeliest(self, chances: "torch.Tensor", candidates: int) -> list[dict]:
        """Tokens with the highest of these probabilities, shape (V,)."""
        best = chances[: len(self.tokenizer)].topk(min(candidates, len(self.tokenizer), len(chances)))
        found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"token": self.piece(token), "id": token, "probability": chance} for token, chance in found]

    def fits(self, ids: list[int]) -> None:
        """Refuse what is longer than the model.

        Raises:
            PromptError: it is.
        """
        if len(ids) > self.room:
            raise PromptError(
                f"the prompt has {len(ids):,} tokens, more than the {self.room:,} that {self.folder} takes"
            )


class Stream:
    """Writes a completion while it is being made, by the interface of transformers' streamers.

    Bytes wait until their character is whole, so that all that was written is what all tokens together are decoded to.
    """

    def __init__(self, used: Used, before: list[int], stops: set[int], write: Callable[[str], object]) -> None:
        from jalm.formats.texts import BYTE

        self.used, self.before, self.stops, self.write, self.byte = used, before, stops, write, BYTE
        self.new: list[int] | None = None  # until the prompt has come
        self.written = 0

    def put(self, value: "torch.Tensor") -> None:
        """Take the prompt, then each token."""
        if self.new is None:
            self.new = []
            return
        self.new += [token for token in value.tolist() if token not in self.stops]
        if self.new and not self.byte.fullmatch(self.used.tokenizer.convert_ids_to_tokens(self.new[-1]) or ""):
            self._write(self.used.said(self.before, self.new).rstrip("\ufffd"))

    def end(self) -> None:
        """Write what has waited."""
        self._write(self.used.said(self.before, self.new or []))

    def _write(self, text: str) -> None:
        self.write(text[self.written :])
        self.written = max(self.written, len(text))


def note(text: str) -> None:
    """Tell on standard error what a user may not expect."""
    print(f"note: {text}", file=sys.stderr)


def is_masked(folder: Path) -> bool:
    """Whether the model of a folder predicts masked tokens; else it predicts the next.

    Raises:
        FolderError: it does neither, has no tokenizer, or is no model's folder.
    """
    if not folder.is_dir():
        named = re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder))
        hub = f"; a model of the Hub has to be fetched first: hf download {folder} --local-dir FOLDER"
        raise FolderError(f"{folder} is no folder{hub if named else ''}")
    if not (folder / "config.json").is_file():
        raise FolderError(f"{folder} is no model's folder: it has no config.json; ours are results/export/<model>")
    if not any(path.name.startswith(("tokenizer", "vocab")) or path.suffix == ".model" for path in folder.iterdir()):
        raise FolderError(
            f"{folder} has no tokenizer (tokenizer.json, vocab.txt, a .model …); for a model of ours take results/export/<model>"
        )
    try:
        architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    except (ValueError, KeyError, TypeError, IndexError):
        raise FolderError(f"{folder}/config.json does not say what the model is (architectures)") from None
    if not (predicted := objectives.of_class(architecture)):
        raise FolderError(
            f"{folder} is a {architecture}, which is neither …ForCausalLM or …LMHeadModel nor …ForMaskedLM"
        )
    return predicted == objectives.MASKED_TOKENS


def load(folder: Path) -> Used:
    """A model and its tokenizer, ready for use.

    Raises:
        FolderError: one of them cannot be loaded, or they do not belong together.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    from jalm.formats import models

    kind, part = AutoModelForMaskedLM if is_masked(folder) else AutoModelForCausalLM, "tokenizer"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        part = "model"
        model, loaded = kind.from_pretrained(folder, output_loading_info=True, trust_remote_code=False)
        model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    except models.UNLOADABLE as error:
        raise FolderError(f"the {part} of {folder} cannot be loaded: {models.reason(error)}") from None
    if loaded["missing_keys"]:
        raise FolderError(f"the model of {folder} lacks weights: {', '.join(sorted(loaded['missing_keys']))}")
    rows, pieces = model.config.vocab_size, len(tokenizer)
    if not models.belong(pieces, rows):
        raise FolderError(
            f"{folder} has a tokenizer of {pieces:,} pieces and a model of {rows:,}; it needs the tokenizer of its training"
        )
    return Used(folder, tokenizer, model, models.positions(model) or tokenizer.model_max_length)


def complete(
    used: Used,
    prompt: str,
    seed: int = 0,
    samples: int = 1,
    special: bool = False,
    keep_end: bool = False,
    write: Callable[[str], object] | None = None,
    **options: object,
) -> dict:
    """Texts that a model makes of a prompt.

    Args:
        used: the model.
        prompt: what they begin with; if it is empty, they are texts from the beginning.
        seed: of the draws.
        samples: how many, drawn in one batch.
        special: whether text that spells a special token is that token.
        keep_end: let the model see only the end of a prompt that leaves too little room.
        write: is given the text bit by bit.
        options: of generate(), in place of those in the folder's generation_config.json.

    Raises:
        PromptError: the prompt leaves no room, or there is nothing to begin with.
    """
    import torch

    defaults, ids, dropped = used.model.generation_config, used.begun(prompt, special), 0
    wanted = options.pop("max_new_tokens", None) or defaults.max_new_tokens or LENGTH
    if keep_end and len(ids) + wanted > used.room:
        first = ids[:1] if ids[0] in used.special else []
        dropped = max(0, len(ids) - max(used.room - wanted, used.room // 2))
        ids = first + ids[len(first) + dropped :]
    if dropped:
        note(f"the model does not see the first {dropped:,} tokens of the prompt")
    if len(ids) >= used.room:
        raise PromptError(
            f"the prompt has {len(ids):,} tokens, which leaves nothing of the {used.room:,} that {used.folder} takes; "
            "with --keep-end the model sees its end"
        )
    stops = used.tokenizer.eos_token_id if defaults.eos_token_id is None else defaults.eos_token_id
    stops = {stops} - {None} if isinstance(stops, int | None) else set(stops)
    options |= {"eos_token_id": sorted(stops) or None, "num_beams": 1}  # nothing else can be streamed
    if defaults.pad_token_id is None:
        options["pad_token_id"] = min(stops, default=0)
    if spare := [*range(len(used.tokenizer), used.model.config.vocab_size)]:
        options["suppress_tokens"] = [*(defaults.suppress_tokens or []), *spare]
    if write:
        write(prompt)
        options["streamer"] = Stream(used, ids, stops, write)
    tensor = torch.tensor([ids], device=used.model.device)
    options |= {"attention_mask": torch.ones_like(tensor), "max_new_tokens": min(used.room - len(ids), wanted)}
    torch.manual_seed(seed)
    try:
        rows = used.model.generate(tensor, num_return_sequences=samples, **options).tolist()
    except torch.OutOfMemoryError:
        raise PromptError(f"{samples} samples are more than the GPU's memory holds; ask for fewer") from None
    except RuntimeError as error:
        if "probability tensor" not in str(error):
            raise
        raise FolderError(BROKEN.format(used.folder)) from None
    made = []
    for row in rows:
        new = row[len(ids) :]
        end = next((n for n, token in enumerate(new) if token in stops), None)
        text = used.said(ids, new[:end])
        made.append({"text": prompt + text, "completion": text, "tokens": len(new[:end])})
        made[-1]["finish_reason"] = "length" if end is None else "stop"
    return {"prompt": prompt, "seed": seed, "seen_tokens": len(ids), "dropped_tokens": dropped, "samples": made}


def fill(used: Used, prompt: str, candidates: int = 5) -> dict:
    """Likeliest pieces for each mask of a prompt, the other masks left as they are.

    Raises:
        PromptError: it has none, or is too long.
    """
    mask, inputs = used.tokenizer.mask_token, used.encode(prompt, special=True)
    ids = inputs["input_ids"]
    places = [n for n, token in enumerate(ids) if token == used.tokenizer.mask_token_id]
    if not places:
        raise PromptError(f"the prompt has no {mask}; put one in place of a word, as in 日本の首都は{mask}である。")
    used.fits(ids)
    around, masks = prompt.split(mask), []
    chances = used.logits(**{name: [value] for name, value in inputs.items()})[0, places].softmax(dim=1)
    for number, likely in enumerate(chances, 1):
        before, after = mask.join(around[:number]), mask.join(around[number:])
        found = used.likeliest(likely, candidates)
        for one in found:
            one["text"] = before + (one["token"].removeprefix("##") or one["token"]) + after
        masks.append({"candidates": found})
    return {"prompt": prompt, "masks": masks}


def follow(used: Used, prompt: str, candidates: int = 5, special: bool = False) -> dict:
    """Likeliest tokens after a prompt, by the model's own probabilities: no temperature, nothing cut off.

    Raises:
        PromptError: it is too long, or there is nothing to begin with.
    """
    ids = used.begun(prompt, special)
    used.fits(ids)
    chances = used.logits(input_ids=[ids], attention_mask=[[1] * len(ids)])[0, -1].softmax(dim=0)
    return {"prompt": prompt, "next": used.likeliest(chances, candidates)}


def score(used: Used, text: str, masked: bool) -> dict:
    """Log-probability in nats of each token of a text, in which nothing is a special token.

    If the model predicts the next token, each is told from those before it, the first from what texts begin with; the end is
    not predicted. Else each is masked in turn, and their sum is no probability of the text.

    Raises:
        PromptError: it has no token to predict, or too many.

    Source: of the second, pseudo-log-likelihood, Salazar et al. 2020.
    """
    nats = _masked(used, text) if masked else _causal(used, text)
    told = [log for _, log in nats if log is not None]
    if not told:
        raise PromptError("the text has no token that could be predicted; it needs more words")
    total, loss = sum(told), -sum(told) / len(told)
    record = {
        "prompt": text,
        "tokens": [{"token": used.piece(token), "id": token, "logprob": log} for token, log in nats],
    }
    record |= {"predicted_tokens": len(told), "logprob": total, "loss": loss}
    if masked:
        return record | {"pseudo_perplexity": math.exp(loss)}
    bits = -total / math.log(2)
    return record | {"perplexity": math.exp(loss), "bits_per_character": bits / len(text), "characters": len(text)}


def _causal(used: Used, text: str) -> list[tuple[int, float | None]]:
    """Tokens and their nats; None for the first where texts begin with nothing."""
    ids = used.begin + used.encode(text, add_special_tokens=False)["input_ids"]
    used.fits(ids)
    if len(ids) < 2:
        return []
    logs = used.logits(input_ids=[ids], attention_mask=[[1] * len(ids)])[0, :-1].log_softmax(dim=1)
    told = [None, *logs[range(len(ids) - 1), ids[1:]].tolist()]
    return list(zip(ids, told, strict=True))[len(used.begin) :]


def _masked(used: Used, text: str) -> list[tuple[int, float]]:
    """Tokens and their nats, as many at once as LOGITS allows."""
    import torch

    inputs = {name: torch.tensor([value]) for name, value in used.encode(text).items()}
    (ids,) = inputs["input_ids"].tolist()
    used.fits(ids)
    places = [n for n, token in enumerate(ids) if token not in used.special]
    rows, nats = max(1, LOGITS // (len(ids) * used.model.config.vocab_size)), []
    for first in range(0, len(places), rows):
        some = places[first : first + rows]
        batch = {name: value.repeat(len(some), 1) for name, value in inputs.items()}
        batch["input_ids"][range(len(some)), some] = used.tokenizer.mask_token_id
        logs = used.logits(**batch)[range(len(some)), some].log_softmax(dim=1)
        nats += [(ids[place], log[ids[place]].item()) for place, log in zip(some, logs, strict=True)]
    return nats
