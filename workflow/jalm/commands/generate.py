"""Use a model: complete a text, fill the [MASK] in one, or tell how likely its words are.

MODEL is a folder of results/export, or another Hugging Face folder whose model predicts the next token or masked ones: it
completes prompts, or fills the masks in them. Without PROMPT and --file the prompts are read from a pipe, a line each, or
asked for on a terminal.
"""

import argparse
import contextlib
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Annotated

from jalm import cli
from jalm.config import Generation
from jalm.formats import answers
from jalm.formats.answers import PromptError
from jalm.knobs import decode, knob

# what a terminal obeys, and byte pieces can make
CONTROLS = {n: chr(0x2400 + n) for n in range(32) if chr(n) not in "\n\t"} | dict.fromkeys(range(127, 160), "\ufffd")


class Wanted(Generation):
    """Numbers that a user can give; those of completions come from the folder where none is given."""

    max_new_tokens: Annotated[int, knob("tokens of a completion, as far as the model's positions go", ge=1)] = 100
    temperature: Annotated[float, knob("below 1 safer, above 1 wilder", ge=1e-3)] = 1.0
    repetition_penalty: Annotated[float, knob("above 1 against repetition", gt=0)] = 1.0
    samples: Annotated[int, knob("completions of each prompt", ge=1)] = 1
    seed: Annotated[int, knob("of the first prompt's draws; the next prompt's is one more", ge=0, lt=2**63)] = 0
    candidates: Annotated[int, knob("pieces shown for a mask", ge=1)] = 5
    next: Annotated[int, knob("show the N likeliest tokens after the prompt instead", ge=1)] = 5


DRAWING = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens")  # as transformers calls them
COMPLETION, MASKS, SCORES, NEXT = "a completion", "masks", "--scores", "--next"  # kinds of answers
ONLY_FOR = dict.fromkeys((*DRAWING, "greedy", "samples", "seed", "keep_end"), (COMPLETION,))
ONLY_FOR |= {"special": (COMPLETION, NEXT), "candidates": (MASKS,)}


def table(record: dict) -> str:
    """An answer for reading."""
    if "samples" in record:
        return "\n\n".join(made["text"] for made in record["samples"])
    if "tokens" not in record:
        groups = [mask["candidates"] for mask in record["masks"]] if "masks" in record else [record["next"]]
        return "\n\n".join(
            "\n".join(f"{c['probability']:6.1%}  {_shown(c['token'])}" for c in group) for group in groups
        )
    lines = ["    nats  probability  token"]
    for told in record["tokens"]:
        log = told["logprob"]
        numbers = f"{'-':>8}  {'-':>11}" if log is None else f"{log:8.3f}  {math.exp(log):11.3%}"
        lines.append(f"{numbers}  {_shown(told['token'])}")
    kind = "pseudo_perplexity" if "pseudo_perplexity" in record else "perplexity"
    total = f"{record['logprob']:8.3f}  of {record['predicted_tokens']:,} tokens together: {record['loss']:.3f} nats a token, "
    total += f"{kind.replace('_', '-')} {record[kind]:,.2f}"
    if "bits_per_character" in record:
        total += f", {record['bits_per_character']:.3f} bits a character"
    return "\n".join([*lines, total])


def _shown(token: str) -> str:
    """A token on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token)


def prompts(source: IO[str], name: str, whole: bool) -> list[str]:
    """Prompts of a file: its lines but for empty ones, or all of it but the last line break as one.

    Raises:
        PromptError: it has none, or is no UTF-8.
    """
    try:
        text = source.read().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise PromptError(f"{name} is no UTF-8 ({error}); convert it with iconv") from None
    found = [text.removesuffix("\n")] if whole else [line for line in text.split("\n") if line.strip()]
    if not text.strip():
        raise PromptError(f"{name} has no prompt; give one as an argument, with --file or by a pipe")
    return found


def converse(answer: Callable[[str, int], object], seed: int | None) -> None:
    """Ask for prompts and answer them until Ctrl-D; Ctrl-C stops an answer.

    Args:
        answer: is given a prompt and its number.
        seed: of the first, told before each; None where nothing is drawn.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  with it input() edits lines
    number = 0
    while True:
        try:
            prompt = input("> " if seed is None else f"{seed + number}> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        except UnicodeDecodeError:
            answers.note("that line is not in the terminal's encoding")
            continue
        if not prompt.strip():
            continue
        try:
            answer(prompt, number)
        except KeyboardInterrupt:
            print()
        except PromptError as fault:
            print(fault, file=sys.stderr)
        number += 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from telling what is no concern of who uses a model."""
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser("generate", __doc__)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a Hugging Face folder (results/export/…)")
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="a text to go on from, or with masks to fill")
    parser.add_argument("--file", metavar="FILE", help="take prompts from this file, a line each")
    parser.add_argument(
        "--whole", action="store_true", help="what a file or pipe has is one prompt, with its line breaks"
    )
    parser.add_argument(
        "--special", action="store_true", help="text that spells a special token, as </s>, is that token"
    )
    parser.add_argument("--json", action="store_true", help="an object a line for each prompt")
    drawing = parser.add_argument_group("completions (default: as the folder's generation_config.json has it)")
    drawing.add_argument("--greedy", action="store_true", help="take the likeliest token each time, draw none")
    drawing.add_argument(
        "--keep-end", action="store_true", help="see only the end of a prompt that leaves too little room"
    )
    others = parser.add_argument_group("other answers")
    others.add_argument(
        "--scores", action="store_true", help="tell the log-probability of each token of the prompt instead"
    )
    for name in (*DRAWING, "samples", "seed", "next", "candidates"):
        info = Wanted.model_fields[name]
        group = drawing if ONLY_FOR.get(name) == (COMPLETION,) else others
        default = f" (default: {info.default})" if name in ("samples", "seed", "candidates") else ""
        metavar = "N" if info.annotation is int else "X"
        group.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=info.description + default)
    return parser


def _asked(args: argparse.Namespace) -> list[str] | None:
    """The prompts; None if they are to be asked for."""
    if args.prompt is not None:
        return [args.prompt]
    if args.file not in (None, "-"):
        with open(args.file, encoding="utf-8") as source:
            return prompts(source, args.file, args.whole)
    if args.file is None and sys.stdin.isatty() and sys.stdout.isatty():
        return None
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="strict")  # what is no UTF-8 is not for the terminal's encoding to explain
    return prompts(sys.stdin, "standard input", args.whole)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = _parser()
    args = parser.parse_intermixed_args(argv)
    if args.prompt is not None and (args.file or args.whole):
        parser.error("give PROMPT or --file, and --whole with the latter only")
    if args.scores and args.next:
        parser.error("give --scores or --next")
    masked = answers.is_masked(args.model)
    kind = SCORES if args.scores else NEXT if args.next else MASKS if masked else COMPLETION
    if masked and kind == NEXT:
        parser.error(f"--next has no meaning for {args.model}, which fills masks")
    if useless := [name for name, kinds in ONLY_FOR.items() if getattr(args, name) and kind not in kinds]:
        which = f", which {args.model} fills" if kind == MASKS else ""
        parser.error(f"--{useless[0].replace('_', '-')} has no meaning for {kind}{which}")
    given = {name: value for name in Wanted.model_fields if (value := getattr(args, name, None)) is not None}
    wanted = decode(Wanted, given)
    drawn = given.keys() & {"temperature", "top_k", "top_p"} | ({"samples"} if wanted.samples > 1 else set())
    if args.greedy and drawn:
        parser.error(f"--greedy draws nothing, so --{min(drawn).replace('_', '-')} has no meaning")
    options = {name: getattr(wanted, name) for name in DRAWING if name in given}
    if args.greedy or drawn:
        options["do_sample"] = not args.greedy
    asked = _asked(args)
    sys.stdout.reconfigure(errors="backslashreplace")  # of what a terminal that is not UTF-8 cannot show
    terminal, streamed = sys.stdout.isatty(), kind == COMPLETION and wanted.samples == 1 and not args.json

    def write(text: str) -> None:
        print(text.translate(CONTROLS) if terminal else text, end="", flush=True)

    def answer(prompt: str, number: int) -> None:
        if kind == SCORES:
            record = answers.score(used, prompt, masked)
        elif kind == NEXT:
            record = answers.follow(used, prompt, wanted.next, args.special)
        elif kind == MASKS:
            record = answers.fill(used, prompt, wanted.candidates)
        else:
            how = {"seed": wanted.seed + number, "samples": wanted.samples, "special": args.special}
            how |= {"keep_end": args.keep_end, "write": write if streamed else None}
            record = answers.complete(used, prompt, **how, **options)
        if args.json:
            print(json.dumps(record, ensure_ascii=False), flush=True)
        else:
            write(("" if streamed else table(record)) + "\n")

    with _quiet():
        used = answers.load(args.model)
        if asked is None:
            print(
                f"{args.model.name}: Ctrl-C stops an answer, Ctrl-D ends{'; the number is the seed' * (kind == COMPLETION)}"
            )
            converse(answer, wanted.seed if kind == COMPLETION else None)
        unanswered = 0
        for number, prompt in enumerate(asked or []):
            if len(asked) > 1 and not args.json:
                write("\n" * (number > 0) + f"{prompt}\n" * (kind != COMPLETION))
            try:
                answer(prompt, number)
            except PromptError as fault:
                if len(asked) == 1:
                    raise
                print(f"prompt {number + 1} of {len(asked)}: {fault}", file=sys.stderr)
                unanswered += 1
        if unanswered:
            raise PromptError(f"{unanswered:,} of {len(asked):,} prompts have no answer, for the reasons above")
