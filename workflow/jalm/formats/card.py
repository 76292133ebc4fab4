"""The model card of an exported folder, in English and Japanese, and its note on licences: measured facts only.

What was not recorded is said to be so. Both languages are written side by side here (`say`), so that neither is forgotten.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jalm.formats import graph, harness, outsider

Say = Callable[[str, str], str]
LANGUAGES: dict[str, Say] = {"English": lambda english, _: english, "日本語": lambda _, japanese: japanese}
NAMES = {"gpt2": "GPT-2", "gpt_neo": "GPT-Neo", "llama": "Llama", "roberta": "RoBERTa", "bert": "BERT"}
NAMES["modernbert"] = "ModernBERT"
ON_THE_HUB = re.compile(  # licences that the Hub calls as SPDX does, in small letters
    r"cc0-1\.0|cc-by(-nc)?(-sa)?-[34]\.0|cc-by-nc-nd-[34]\.0|cc-by-nd-4\.0|cdla-(permissive-[12]|sharing-1)\.0|apache-2\.0|mit|bsd-[23]-clause|mpl-2\.0|isc|zlib"
    r"|[al]?gpl-3\.0|gpl-2\.0|lgpl-2\.1|ofl-1\.1|unlicense|wtfpl"
)
HUB = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?", re.ASCII)
FIGURES = {  # of an evaluation: how it is written, and what it is called
    "perplexity": (",.2f", "perplexity", "パープレキシティ"),
    "loss": (".4f", "loss, nats a token", "損失（nat／トークン）"),
    "bits_per_character": (".3f", "bits per character", "文字あたりのビット数"),
    "bits_per_byte": (".3f", "bits per UTF-8 byte", "バイトあたりのビット数（UTF-8）"),
    "sliding.perplexity": (",.2f", "perplexity, sliding window", "パープレキシティ（移動窓）"),
    "sliding.bits_per_character": (".3f", "bits per character, sliding window", "文字あたりのビット数（移動窓）"),
    "by_document.perplexity": (",.2f", "perplexity, each document alone", "パープレキシティ（文書ごと）"),
    "by_document.bits_per_character": (
        ".3f",
        "bits per character, each document alone",
        "文字あたりのビット数（文書ごと）",
    ),
    "by_document.bits_per_byte": (
        ".3f",
        "bits per UTF-8 byte, each document alone",
        "バイトあたりのビット数（文書ごと）",
    ),
    "pseudo_perplexity": (",.2f", "pseudo-perplexity", "疑似パープレキシティ"),
    "accuracy": (".3f", "accuracy", "正解率"),
    "nsp_loss": (".4f", "next sentence loss, nats", "次文予測の損失（nat）"),
    "nsp_accuracy": (".3f", "next sentence accuracy", "次文予測の正解率"),
    "pairs": (",", "pairs of sentences", "文対"),
    "unknown_share": (".3%", "unknown tokens", "未知トークンの割合"),
    "byte_share": (".3%", "byte tokens", "バイトトークンの割合"),
    "predicted_tokens": (",", "predicted tokens", "予測したトークン数"),
    "documents": (",", "documents", "文書数"),
    "characters": (",", "characters", "文字数"),
}
TYPES = {"perplexity": "perplexity", "loss": "loss", "accuracy": "accuracy"}  # of metrics, as the Hub knows them
SUMS = (
    "The losses of all tokens are added and divided once, by their number. `evaluation.json` has all figures.",
    "全トークンの損失の合計をトークン数で割った値です（ブロックごとの平均の平均ではありません）。すべての値は `evaluation.json` にあります。",
)
# knobs of a training, in the order in which a reader asks
SIZES = ("block_size", "global_batch_size", "max_steps", "corpora", "optim", "learning_rate", "lr_scheduler_type")
KNOBS = (*SIZES, "warmup_steps", "decay_fraction", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
KNOBS += ("max_grad_norm", "mixed_precision", "seed")
CHECKS = {"weights": "重み", "token ids": "トークン ID", "decoded text": "復号したテキスト", "logits": "ロジット"}
CHECKS |= {"text-generation pipeline": "text-generation パイプライン", "fill-mask pipeline": "fill-mask パイプライン"}
MASKING = ("mlm_probability", "mask_replace_prob", "random_replace_prob", "whole_word_mask")


@dataclass(frozen=True)
class Facts:
    """What a card is made of.

    Attributes:
        provenance: see docs/pipeline.md.
        architecture: of the model.
        task: of the pipeline that it is for.
        length: tokens that it takes.
        license: SPDX name of the licence chosen for the weights, empty if none was.
        evaluations: what evaluate wrote.
        samples: what its pipeline made of some prompts.
        files: names of the files in the folder.
        repo_id: repository that it goes to, empty if none was named.
    """

    provenance: dict[str, Any]
    architecture: str
    task: str
    length: int
    license: str
    evaluations: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    files: set[str]
    repo_id: str = ""

    @property
    def name(self) -> str:
        """Of the model."""
        return self.provenance["model"]

    @property
    def masked(self) -> bool:
        """Whether it fills masks; else it goes on with texts."""
        return self.task == "fill-mask"


def figure(evaluation: dict[str, Any], name: str) -> Any:
    """A figure of an evaluation, None if it has none; `a.b` is b in a."""
    value: Any = evaluation
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def write(facts: Facts) -> str:
    """The card."""
    known = facts.provenance["corpora"]
    bodies = [
        f"## {language}\n\n" + "\n\n".join(section for make in SECTIONS for section in make(facts, say))
        for language, say in LANGUAGES.items()
    ]
    links = " · ".join(f"[{language}](#{language.lower()})" for language in LANGUAGES)
    head = yaml.safe_dump(metadata(facts, known), allow_unicode=True, sort_keys=False, width=1000).strip()
    return f"---\n{head}\n---\n\n# {facts.name}\n\n{links}\n\n" + "\n\n".join(bodies) + "\n"


# ---- what the Hub reads


def licence(facts: Facts, corpora: list[dict[str, Any]]) -> dict[str, str]:
    """The licence, by the Hub's keys: that of the weights, else the only one of the training text, else `other`."""
    names = [facts.license] if facts.license else sorted({entry["license"] for entry in corpora})
    if len(names) == 1 and ON_THE_HUB.fullmatch(names[0].lower()):
        return {"license": names[0].lower()}
    spelt = re.sub(r"[^a-z0-9.]+", "-", "-and-".join(names).lower()).strip("-")
    return {"license": "other", "license_name": spelt or "unknown", "license_link": "LICENSE"}


def on_hub(model: str) -> bool:
    """Whether an init_model is OWNER/NAME or OWNER/NAME@REVISION, and no folder here."""
    return bool(HUB.fullmatch(model)) and not Path(Path(model).parts[0]).exists()


def metadata(facts: Facts, corpora: list[dict[str, Any]]) -> dict[str, Any]:
    """What the Hub wants to know."""
    first = facts.provenance["training"].get("init_model") or ""
    datasets = sorted({entry["dataset"] for entry in corpora if entry.get("dataset")})
    results = [result(facts, evaluation) for evaluation in facts.evaluations]
    return {
        "language": ["ja"],
        **licence(facts, corpora),
        "library_name": "transformers",
        "pipeline_tag": facts.task,
        "tags": ["japanese", "jalm", facts.architecture, *(["onnx"] if graph.NAME in facts.files else [])],
        **({"datasets": datasets} if datasets else {}),
        **({"base_model": first.partition("@")[0]} if on_hub(first) else {}),
        "metrics": [name for name in ("perplexity", "accuracy") if any(name in one for one in facts.evaluations)],
        "widget": [example(sample) for sample in facts.samples],
        "model-index": [{"name": facts.name, "results": results}],
    }


def example(sample: dict[str, Any]) -> dict[str, Any]:
    """A prompt for the Hub's widget, with what was answered."""
    if "text" in sample:
        return {"text": sample["prompt"], "output": {"text": sample["text"]}}
    labels = [{"label": c["token"], "score": round(c["probability"], 4)} for c in sample["candidates"]]
    return {"text": sample["prompt"], "output": labels}


def result(facts: Facts, evaluation: dict[str, Any]) -> dict[str, Any]:
    """An evaluation as an entry of the Hub's model-index."""
    metrics = []
    for name, (form, english, _) in FIGURES.items():
        value = figure(evaluation, name)
        if isinstance(value, float):
            digits = 6 if form.endswith("%") else 4
            kind = TYPES.get(name.rpartition(".")[2], name.replace(".", "_"))
            metrics.append({"type": kind, "name": english, "value": round(value, digits)})
    test_set = evaluation["test_set"]
    return {
        "task": {"type": facts.task, "name": "masked language modelling" if facts.masked else "language modelling"},
        "dataset": {"type": test_set, "name": f"{test_set} (test)", "split": "test"},
        "metrics": metrics,
    }


# ---- sections; each gives its paragraphs in one language


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; the cells of all columns but the first are numbers or names, to the right."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def introduction(facts: Facts, say: Say) -> Iterator[str]:
    """What it is."""
    training = facts.provenance["training"]
    unknown = say("an unrecorded number of", "記録なし")
    parameters, tokens = (f"{training[key]:,}" if key in training else unknown for key in ("parameters", "tokens"))
    first = training.get("init_model")
    kind = NAMES.get(facts.architecture, facts.architecture)
    yield say(
        f"A Japanese {'masked' if facts.masked else 'causal'} language model: {kind}, {parameters} parameters, "
        f"{facts.length:,} tokens of context, trained {f'from `{first}`' if first else 'from scratch'} on {tokens} tokens.",
        f"日本語の{'マスク' if facts.masked else '自己回帰'}言語モデルです。{kind}、パラメータ数 {parameters}、文脈長 {facts.length:,} トークン。"
        f"{f'`{first}` から' if first else 'ゼロから'}学習しました（学習したトークン：{tokens}）。",
    )
    yield say(
        "This page was written by the program that trained, measured and exported the model (jalm "
        f"{facts.provenance['jalm']}); `provenance.json` has all that it goes by.",
        f"このページは、モデルを学習・評価・エクスポートしたプログラム（jalm {facts.provenance['jalm']}）が、記録した事実だけから書いたものです。"
        "根拠はすべて `provenance.json` にあります。",
    )


def use(facts: Facts, say: Say) -> Iterator[str]:
    """How it is used."""
    prompt = facts.samples[0]["prompt"] if facts.samples else "日本の首都は"
    versions = facts.provenance["versions"]
    folder = say("or the path of this folder", "またはこのフォルダのパス")
    if not facts.repo_id:
        folder = say("this folder, or its repository on the Hub", "このフォルダ、または Hub のリポジトリ名")
    yield f"### {say('Use', '使い方')}"
    yield (
        "```python\nfrom transformers import pipeline\n\n"
        f'pipe = pipeline("{facts.task}", model="{facts.repo_id or facts.name}")  # {folder}\n'
        f'print(pipe("{prompt}"))\n```'
    )
    around = say(" Its mask is `[MASK]`.", "マスクは `[MASK]` です。") if facts.masked else ""
    yield say(
        f"Plain transformers is enough (checked with {versions['transformers']}): no code of ours, no `trust_remote_code`, no "
        f"MeCab.{around} Normalisation is part of `tokenizer.json`. Its ids are those of SentencePiece with `spm.model`, which "
        "by itself wants text that is normalised already.",
        f"標準の transformers だけで動きます（{versions['transformers']} で確認）。独自コード、`trust_remote_code`、MeCab は不要です。{around}"
        "正規化は `tokenizer.json` に含まれます。ID は `spm.model` を使う SentencePiece と一致しますが、SentencePiece だけで使うときは正規化したテキストを渡してください。",
    )
    if not facts.masked:
        yield say(
            "`generation_config.json` has the defaults of `generate()`; arguments override them.",
            "`generate()` の既定値は `generation_config.json` にあり、引数で変えられます。",
        )
    if graph.NAME in facts.files:
        yield say(
            f"`{graph.NAME}` is the same model for ONNX Runtime; its logits are within {graph.TOLERANCE:g} of those above. It has no "
            "cache: each call computes the whole text.",
            f"`{graph.NAME}` は同じモデルの ONNX 版です（ロジットの差は {graph.TOLERANCE:g} 以内）。キャッシュはなく、呼び出しのたびに全文を計算します。",
        )
        yield (
            "```python\nfrom onnxruntime import InferenceSession\nfrom transformers import AutoTokenizer\n\n"
            f'tokenizer = AutoTokenizer.from_pretrained("{facts.name}")\n'
            f'session = InferenceSession("{facts.name}/{graph.NAME}")\n'
            f'(logits,) = session.run(None, dict(tokenizer(["{prompt}"], return_tensors="np")))\n```'
        )
    if outsider.HEAD in facts.files:
        yield say(
            "It was also trained to tell whether the second of two texts follows the first (`seq_relationship_logits`: it does, it "
            "does not). Its weights for that, `cls.seq_relationship` and the `bert.pooler` that classifiers too begin from, are in a "
            "file of their own. `from_pretrained` reports them missing, and the line after it puts them in:",
            "次文予測（二つ目の文章が一つ目に続くかどうか。`seq_relationship_logits` は「続く」「続かない」の順）も学習しています。"
            "そのための重み `cls.seq_relationship` と、分類器の出発点にもなる `bert.pooler` は別のファイルにあります。"
            "`from_pretrained` は重みがないと報告しますが、次の行で読み込まれます。",
        )
        yield (
            "```python\nfrom safetensors.torch import load_file\nfrom transformers import BertForPreTraining\n\n"
            f'model = BertForPreTraining.from_pretrained("{facts.name}")\n'
            f'model.load_state_dict(load_file("{facts.name}/{outsider.HEAD}"), strict=False)\n```'
        )


def samples(facts: Facts, say: Say) -> Iterator[str]:
    """What it says."""
    if not facts.samples:
        return
    yield f"### {say('Samples', '出力例')}"
    if facts.masked:
        yield say("The likeliest pieces for `[MASK]`.", "`[MASK]` に入る確率が最も高いトークン。")
        rows = [
            [s["prompt"], ", ".join(f"{c['token'] or '∅'} {c['probability']:.1%}" for c in s["candidates"])]
            for s in facts.samples
        ]
        yield table([say("text", "文"), say("pieces", "候補")], [[*map(inline, row)] for row in rows])
        return
    yield say(
        "The first thing that it said to each prompt (in bold), by the defaults above, after `transformers.set_seed(0)`: nothing was chosen.",
        "それぞれの書き出し（太字）に対する最初の出力です（上記の既定値、`transformers.set_seed(0)` の直後）。選別はしていません。",
    )
    for sample in facts.samples:
        prompt, text = sample["prompt"], sample["text"].removeprefix(sample["prompt"])
        yield f"> **{inline(prompt)}**{inline(text)}"


def inline(text: str) -> str:
    """A text as it is, in one line of Markdown."""
    spelt = re.sub(r"([\\`*_{}\[\]<>#~$&])", r"\\\1", text).replace("|", "&#124;")
    return re.sub(r"\s*\n\s*", "<br>", "".join(c for c in spelt if c.isprintable() or c == "\n").strip("\n"))


def evaluation(facts: Facts, say: Say) -> Iterator[str]:
    """How good it is."""
    yield f"### {say('Evaluation', '評価')}"
    found = facts.evaluations
    if not found:
        yield say("There is none.", "評価はありません。")
        return
    rows = []
    for name, (form, *words) in FIGURES.items():
        values = [figure(one, name) for one in found]
        if any(value is not None for value in values):
            cells = ["–" if value is None else format(value, form) for value in values]
            for number, one in enumerate(found):
                if interval := figure(one, f"{name}_interval"):
                    cells[number] += f" ({interval[0]:{form}}–{interval[1]:{form}})"
            rows.append([say(*words), *cells])
    yield table([say("test set", "テストデータ"), *(one["test_set"] for one in found)], rows)
    if facts.masked:
        share = figure(found[0], "mlm_probability")
        yield say(
            f"On {share:.0%} of the tokens, masked, the same each time. " if share else "On masked tokens. ",
            f"毎回同じ {share:.0%} のトークンをマスクして測りました。" if share else "マスクしたトークンで測りました。",
        ) + say(*SUMS)
        return
    size = figure(found[0], "block_size") or facts.length  # an older evaluation saw what the model takes
    notes = [
        say(
            f"Unless said otherwise: disjoint blocks of {size:,} tokens of the stream of documents, the first tokens of a block "
            "with little context.",
            f"断りのない値は、文書をつないだ列を {size:,} トークンずつ重ならないブロックに切って測りました。ブロックの先頭では文脈が短くなります。",
        )
    ]
    if stride := figure(found[0], "sliding.stride"):
        least = size - stride
        notes.append(
            say(
                f"Sliding window: a window of as many tokens, moved by {stride:,}, so that tokens have at least {least:,} before them.",
                f"移動窓：同じ長さの窓を {stride:,} トークンずつずらすので、各トークンの前には少なくとも {least:,} トークンあります。",
            )
        )
    if any(figure(one, "by_document") for one in found):
        interval = any(figure(one, "by_document.bits_per_character_interval") for one in found)
        notes.append(
            say(
                "Each document alone: after `<s>`, with no text before it"
                + ("; in brackets the 95 % interval of a bootstrap over documents." if interval else "."),
                "文書ごと：`<s>` のあとに文書だけを置いて測りました"
                + ("。括弧内は文書のブートストラップによる 95 % 区間です。" if interval else "。"),
            )
        )
    notes.append(
        say(
            "Bits per character and byte are of the raw text: on the same text they compare models with different tokenizers, which "
            "perplexities do not.",
            "文字・バイトあたりのビット数は元の文章に対する値で、同じ文章の上ならトークナイザーの異なるモデルどうしを比べられます。"
            "パープレキシティでは比べられません。",
        )
    )
    yield say(" ", "").join([*notes, say(*SUMS)])
    if harness.PATH in facts.files:
        yield say(
            f"lm-evaluation-harness measures the bits per byte of each document alone with the task in `{harness.PATH}`, on texts in `test.jsonl`, an "
            "object with the key `text` a line; it puts `<s>` before them itself:",
            f"lm-evaluation-harness でも、`{harness.PATH}` のタスクで文書ごとのバイトあたりビット数を測れます。文章は `test.jsonl` に、キー `text` を"
            "もつオブジェクトを 1 行に 1 つ置きます（`<s>` は harness が前に付けます）：",
        )
        folder, model = Path(harness.PATH).parent, f"pretrained={facts.name},add_bos_token=False"
        if size != facts.length:
            model += f",max_length={size}"
        yield f"""```console
$ lm_eval --model hf --model_args {model} --include_path {facts.name}/{folder} --tasks {facts.name}
```"""


def data(facts: Facts, say: Say) -> Iterator[str]:
    """What it was trained on."""
    yield f"### {say('Training data', '学習データ')}"
    weights = facts.provenance["config"].get("corpora", {})
    for entry in facts.provenance["corpora"]:
        where, credit = link(entry["license"]), entry["attribution"] or say("no credit asked for", "表示の指定なし")
        spelt = f"[{entry['license']}]({where})" if where else entry["license"]
        yield f"**{entry['name']}** ({spelt}): {credit}"
        if dump := entry.get("dump"):
            lines = []
            for name, file in dump["files"].items():
                sums = ", ".join(f"{kind} `{value}`" for kind, value in file.get("sums", {}).items())
                lines.append(
                    f"- `{name}`, {file['size']:,} {say('bytes', 'バイト')}, {sums or say('no checksum', 'チェックサムなし')}"
                )
            yield "\n".join(lines)
        if account := entry.get("account"):
            yield sizes(account, say)
        else:
            yield say("What became of it in each stage was not recorded.", "各段階での件数は記録されていません。")
    passes = {name: f"{weight:g}" for name, weight in weights.items()}
    if any(weight != "1" for weight in passes.values()):
        told = ", ".join(f"{name} {weight}" for name, weight in passes.items())
        yield say(f"Passes over each corpus in an epoch: {told}.", f"1 エポックで各コーパスを通る回数：{told}。")
    made = facts.provenance["tokenizer"]
    if own := made.get("sample", {}).get("own_model"):
        same, lines = made["sample"]["same_lines"], made["sample"]["lines"]
        yield say(
            f"Tokenizer: {made['vocab_size']:,} pieces, made of the SentencePiece model {own}, which cuts {same:,} of {lines:,} pairs of "
            "lines of the training text into the same pieces. The `spm.model` in this folder is exactly the tokenizer of this model.",
            f"トークナイザー：{made['vocab_size']:,} 語彙。SentencePiece モデル {own} から作りました。学習テキストの行の対 {lines:,} 組のうち "
            f"{same:,} 組を同じように分割します。このフォルダの `spm.model` は、このモデルのトークナイザーそのものです。",
        )
    else:
        drawn = say("text that was not recorded", "記録のない文章")
        if parts := [part for part in made.get("sample", {}).get("corpora", {}).values() if "of_documents" in part]:
            taken, there, size = (sum(part[key] for part in parts) for key in ("documents", "of_documents", "bytes"))
            drawn = say(
                f"{taken:,} of {there:,} documents of the training text ({size / 1e6:,.1f} MB)",
                f"学習テキストの {there:,} 文書のうち {taken:,} 文書（{size / 1e6:,.1f} MB）",
            )
        yield say(
            f"Tokenizer: SentencePiece, {made['vocab_size']:,} pieces, trained on {drawn}.",
            f"トークナイザー：SentencePiece、{made['vocab_size']:,} 語彙。{drawn}で学習しました。",
        )


def sizes(account: dict[str, Any], say: Say) -> str:
    """What became of a corpus, as a table."""
    rows = []

    def row(what: str, size: dict[str, int], sign: str = "") -> None:
        spelt = {key: f"{sign if count else ''}{count:,}" for key, count in size.items()}
        cells = (spelt.get(key, "–") for key in ("documents", "sentences", "characters"))
        rows.append([what, *cells])

    intake, filtered, split = (account[stage] for stage in ("intake", "filter", "split"))
    row(say("taken in", "取り込み"), {"documents": intake["in"]})
    row(
        say("redirects, other pages, empty ones", "転送・曖昧さ回避など、空のもの"),
        {"documents": sum(intake["dropped"].values())},
        "−",
    )
    for stage, words in ((filtered, ("filtered out", "品質で除外")), (split, ("duplicates", "重複で除外"))):
        dropped: dict[str, int] = dict.fromkeys(("documents", "sentences", "characters"), 0)
        for size in stage["dropped"].values():
            dropped = {key: dropped[key] + size.get(key, 0) for key in dropped}
        row(say(*words), dropped, "−")
    for side, words in (("train", "学習用"), ("valid", "検証用"), ("test", "テスト用")):
        row(say(side, words), split["out"][side])
    return table(["", say("documents", "文書数"), say("sentences", "文"), say("characters", "文字数")], rows)


def training(facts: Facts, say: Say) -> Iterator[str]:
    """How it was trained."""
    record, knobs = facts.provenance["training"], facts.provenance["config"]
    unknown, last = say("not recorded", "記録なし"), record.get("last_run", {})
    yield f"### {say('Training', '学習')}"
    rows = []
    for key, words in {
        "steps": ("optimizer steps", "更新回数"),
        "tokens": ("tokens seen", "学習したトークン"),
        "parameters": ("parameters", "パラメータ"),
    }.items():
        rows.append([say(*words), f"{record[key]:,}" if key in record else unknown])
    if {"tokens", "parameters"} <= record.keys():
        rows.append(
            [say("tokens a parameter", "パラメータあたりのトークン"), f"{record['tokens'] / record['parameters']:.1f}"]
        )
    if {"tokens", "flops_per_token"} <= record.keys():
        rows.append(
            [say("floating-point operations", "浮動小数点演算"), f"{record['tokens'] * record['flops_per_token']:.2e}"]
        )
    processes, device = record.get("processes", 1), record.get("device", unknown)
    rows.append([say("hardware", "ハードウェア"), f"{processes} x {device}" if processes > 1 else device])
    if {"steps", "seconds"} <= last.keys():
        seconds = last["seconds"]
        in_hours, in_minutes = (
            f"{seconds / 3600:,.1f} {say('hours', '時間')}",
            f"{seconds / 60:.1f} {say('minutes', '分')}",
        )
        part = (
            ""
            if last["steps"] == record.get("steps")
            else say(f" (the last {last['steps']:,} steps)", f"（最後の {last['steps']:,} 回）")
        )
        rows.append([say("time", "所要時間"), (in_hours if seconds > 3600 else in_minutes) + part])
    for key, words in {
        "loss": ("last training loss, nats", "最後の学習損失（nat）"),
        "valid_loss": ("last validation loss, nats", "最後の検証損失（nat）"),
    }.items():
        if key in record:
            rows.append([say(*words), f"{record[key]:.4f}"])
    versions = record.get("versions", {})
    rows.append([say("software", "ソフトウェア"), ", ".join(f"{k} {v}" for k, v in versions.items()) or unknown])
    yield table([say("what", "項目"), say("figure", "値")], rows)
    shown = (*KNOBS, *(MASKING if facts.masked else ()))
    wanted = {key: knobs[key] for key in shown if key in knobs} | (knobs.get("config") or {})
    if knobs.get("lr_scheduler_type") != "warmup_stable_decay":
        wanted.pop("decay_fraction", None)
    if wanted:
        told = ", ".join(f"`{key}` {plain(value)}" for key, value in wanted.items() if value is not None)
        yield say(
            f"Knobs, by the names that transformers has for them where it has any: {told}.",
            f"設定（transformers に名前があるものはその名前）：{told}。",
        )
    else:
        yield say("Its knobs were not recorded.", "設定は記録されていません。")


def plain(value: Any) -> str:
    """The value of a knob, as it is written in a configuration."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def reproduction(facts: Facts, say: Say) -> Iterator[str]:
    """How to make it again."""
    made, told = facts.provenance, []
    revision = made["training"].get("revision", "")
    yield f"### {say('Make it again', '再現')}"
    recorded = "configuration.yaml" in facts.files
    if recorded:
        commands = [
            f"cp {facts.name}/configuration.yaml config.yaml",
            f"snakemake --cores 8 results/export/{facts.name}",
        ]
        if re.fullmatch("[0-9a-f]+", made["revision"]):
            commands.insert(0, f"git checkout {made['revision']}")
        yield say(
            f"In a clone of jalm ({made['jalm']}), with the `configuration.yaml` of this folder in place of its `config.yaml`, and with "
            "`contact` set in it, and `mirror` and `segment.dictionary` where they are not the usual ones:",
            f"jalm（{made['jalm']}）のクローンで、`config.yaml` をこのフォルダの `configuration.yaml` で置き換え、そこに `contact`（既定と異なるなら "
            "`mirror` と `segment.dictionary` も）を設定して：",
        )
        yield "```console\n" + "\n".join(f"$ {command}" for command in commands) + "\n```"
        if table := made.get("templates"):
            yield say(
                f"`extract.templates` was {table['name']} (SHA-256 `{table['sha256']}`), which is not in this folder.",
                f"`extract.templates` は {table['name']}（SHA-256 `{table['sha256']}`）でした。このフォルダにはありません。",
            )
    else:
        yield say("The configuration was not recorded.", "設定は記録されていません。")
    for what, value in (
        (say("trained at", "学習時"), revision),
        (say("exported at", "エクスポート時"), made["revision"]),
    ):
        note = (
            say(" (with changes that were not committed)", "（未コミットの変更あり）")
            if value.endswith("-dirty")
            else ""
        )
        spelt = (
            f"`{value.removesuffix('-dirty')}`{note}"
            if value
            else say("not recorded (no git clone)", "記録なし（git のクローンではない）")
        )
        told.append(f"{what} {spelt}")
    yield say(
        f"Git revision: {', '.join(told)}. `log.jsonl` has the whole training, `provenance.json` digests of the code"
        + (
            ", `configuration.yaml` every knob that can change a result, but for what is in files that it names."
            if recorded
            else "."
        ),
        f"git のリビジョン：{'、'.join(told)}。`log.jsonl` には学習の全記録、`provenance.json` にはコードのダイジェスト"
        + (
            "、`configuration.yaml` には結果を変えうる設定のすべてがあります（そこに名前のあるファイルの中身は除く）。"
            if recorded
            else "があります。"
        ),
    )
    checks, texts = made["proof"]["checks"], made["proof"]["texts"]
    yield say(
        "Before this folder took its place a fresh process loaded it, and it was compared with the trained model and with "
        f"SentencePiece, on {texts:,} texts: {', '.join(checks)}. `provenance.json` has the SHA-256 of each other file.",
        f"このフォルダは、配置する前に新しいプロセスで読み込み、学習済みモデルおよび SentencePiece と {texts:,} 件の文章で比べました："
        f"{'、'.join(CHECKS.get(check, check) for check in checks)}。ほかの各ファイルの SHA-256 は `provenance.json` にあります。",
    )
    if "CHANGELOG.md" in facts.files:
        yield say(
            "`CHANGELOG.md`, which goes on at the Hub and so has none, says what differs from the model before.",
            "前のモデルとの違いは `CHANGELOG.md` にあります（Hub で書き足されるため、その SHA-256 はありません）。",
        )


def rights(facts: Facts, say: Say) -> Iterator[str]:
    """Whose it is."""
    yield f"### {say('Licence', 'ライセンス')}"
    if facts.license:
        yield say(
            f"The weights are given out under {facts.license}, chosen by who made them.",
            f"重みは、作成者が選んだ {facts.license} で提供されます。",
        )
    else:
        yield say(
            "No licence was chosen for the weights themselves. The metadata name the licence of the training text; whether weights "
            "are bound by it is not settled, and this page does not decide it.",
            "重みそのもののライセンスは選ばれていません。メタデータにあるのは学習テキストのライセンスです。"
            "重みがそれに拘束されるかどうかは定まっておらず、このページはそれを決めません。",
        )
    yield say(
        "`LICENSE` names the licences and the authors of the training text. Pass it on with the model.",
        "学習テキストのライセンスと著作者は `LICENSE` にあります。モデルを渡すときは一緒に渡してください。",
    )


def limits(facts: Facts, say: Say) -> Iterator[str]:
    """What it is not."""
    yield f"### {say('Limits', '限界')}"
    names = ", ".join(entry["name"] for entry in facts.provenance["corpora"])
    first = facts.provenance["training"].get("init_model")
    beside = (f" and what `{first}` had learnt from", f" と、`{first}` が学んだもの") if first else ("", " ")
    lines = [
        say(
            f"It learnt from {names}{beside[0]} only: it repeats what that says, errors and prejudices included, and knows nothing later.",
            f"学んだのは {names}{beside[1]}だけです。誤りや偏見も含めてその内容を繰り返し、それより後のことは知りません。",
        ),
        say(
            "What it says may be false, and may be a passage of its training text; how often was not measured. Nor were bias and toxicity.",
            "出力は誤りであることも、学習テキストの一節そのものであることもあります。その頻度も、偏りや有害性も測定していません。",
        ),
        say("It was not tuned to follow instructions or to chat.", "指示への追従や対話のための調整はしていません。"),
        say(
            f"It takes at most {facts.length:,} tokens{'' if facts.masked else ', prompt and completion together; cut a longer prompt'}.",
            f"扱えるのは{'' if facts.masked else 'プロンプトと生成結果を合わせて'}最大 {facts.length:,} トークンです"
            f"{'' if facts.masked else '。長いプロンプトは切り詰めてください'}。",
        ),
        say(
            "It was evaluated on text of the kind that it was trained on only, where nothing else is named above.",
            "評価は、上に別のデータが挙げられていないかぎり、学習データと同種の文章だけで行いました。",
        ),
    ]
    yield "\n".join(f"- {line}" for line in lines)


SECTIONS = (introduction, use, samples, evaluation, data, training, reproduction, rights, limits)


# ---- the note on licences


def link(name: str) -> str:
    """Where the text of a licence is, empty if its name is none that is known."""
    if found := re.fullmatch(r"CC-(BY(?:-(?:SA|NC|ND|NC-SA|NC-ND))?)-(\d\.\d)", name):
        return f"https://creativecommons.org/licenses/{found[1].lower()}/{found[2]}/"
    if name == "CC0-1.0":
        return "https://creativecommons.org/publicdomain/zero/1.0/"
    return f"https://spdx.org/licenses/{name}.html" if ON_THE_HUB.fullmatch(name.lower()) else ""


def note(name: str, license: str, corpora: list[dict[str, Any]]) -> str:
    """The LICENSE of a folder: what is whose, and what must be said where it is passed on.

    Args:
        name: of the model.
        license: SPDX name of the licence chosen for the weights, empty if none was.
        corpora: name, license, attribution and dump of each.
    """
    parts = [f"{name}: licences", "=" * (len(name) + 10), ""]
    if license:
        parts += [f"The weights are given out under {license}{f' ({link(license)})' if link(license) else ''}."]
    else:
        parts += [
            "No licence was chosen for the weights. Whether the weights of a model are an adaptation of the text that they were",
            "trained on is not settled, and differs from country to country; this note does not decide it. To pass them on under",
            "the terms of the text, with this note, is the careful choice.",
        ]
    parts += [
        "",
        "The model was trained on the following text, which is not in this folder; what it says may repeat some of it.",
        "",
    ]
    for entry in corpora:
        where = link(entry["license"])
        parts.append(f"- {entry['name']}, licence: {entry['license']}{f' ({where})' if where else ''}")
        if entry["attribution"]:
            parts.append(f"  Credit: {entry['attribution']}")
        dump = entry.get("dump") or {"files": {}}
        said = f"{dump.get('wiki', 'a wiki')} of {dump.get('date', 'an unknown date')}"
        for name, file in dump["files"].items():
            sums = "".join(f", {kind} {value}" for kind, value in file.get("sums", {}).items())
            parts.append(f"  From: {file['url']}" if "url" in file else f"  From: {name}, {said}{sums}")
        if entry["license"].upper().startswith("CC-BY"):
            parts.append(
                "  Changes: markup was taken out, documents were left out, and what stayed was cut into tokens."
            )
        if "-SA-" in entry["license"].upper():
            parts.append("  Who shares an adaptation of this text shares it under the same licence.")
        if "wikipedia" in entry["attribution"].lower():
            parts += [
                "  Its terms of use (https://foundation.wikimedia.org/wiki/Policy:Terms_of_Use) ask to credit the authors of an",
                "  article by a link to it: its history (?action=history) names them all. Most of the text is under the GNU Free",
                "  Documentation License too.",
            ]
    parts += ["", "To be named here does not mean to endorse the model."]
    return "\n".join(parts) + "\n"
