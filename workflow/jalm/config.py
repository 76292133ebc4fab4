"""Every knob: its name, type, bounds, default, meaning, and whether it can change a result.

`config.yaml` is read into `Config`; the same sections make the options of the stages (`jalm segment --help`) and the
`params.flags` of the rules. Keys that are not here are errors.
"""

import datetime
import difflib
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from jalm import Fault

PRESETS = Path(__file__).parents[1] / "presets"
NAME = r"^[A-Za-z][A-Za-z0-9_.]*(-[A-Za-z0-9_.]+)*$"  # of corpora, tokenizers, models: they appear in paths
SIDES = ("train", "valid", "test")
HojiChar = Literal[  # those that judge a text; the others rewrite it, or need a dictionary
    "AcceptJapanese",
    "DiscardAds",
    "DiscardAdultContentJa",
    "DiscardBBSComments",
    "DiscardDiscriminationContentJa",
    "DiscardRareKuten",
    "DiscardViolenceContentJa",
]


class ConfigError(Fault):
    """A configuration that cannot be used; one line for each mistake."""


class UnknownDate(ConfigError):
    """`dump_date` is no date; the dates that the mirror offers are what the user needs to see."""


def knob(description: str, *, neutral: bool = False, **bounds: Any) -> Any:
    """A field of a section; `neutral` ones cannot change a result (the batch per device: but for rounding and dropout)."""
    return Field(description=description, json_schema_extra={"neutral": neutral}, **bounds)


class Section(BaseModel):
    """A group of knobs."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, protected_namespaces=())


# ---- corpora


class Mirror(Section):
    """Where the dumps of a wiki are."""

    wiki: Annotated[str, knob("name of the wiki at the mirror", pattern=r"^[a-z][a-z_0-9]*$")] = "jawiki"
    layout: Annotated[
        Literal["classic", "content", "auto"],
        knob("of the mirror: classic (articles), content (mediawiki_content_current); auto: classic if it is done"),
    ] = "auto"
    sha1: Annotated[
        str | None, knob("checksum that the dump must have, beside the mirror's own", pattern="^[0-9a-f]{40}$")
    ] = None
    mirror: Annotated[str, knob("https:, http: or file: address of its root, or file: a .xml.bz2", neutral=True)] = (
        "https://dumps.wikimedia.org"
    )
    retries: Annotated[int, knob("attempts after a failed request", neutral=True, ge=0)] = 5
    connections: Annotated[int, knob("files loaded at once; Wikimedia allows 3", neutral=True, ge=1, le=3)] = 1

    @field_validator("mirror")
    @classmethod
    def has_a_scheme(cls, mirror: str) -> str:
        """Refuse a mirror that is no address."""
        if not mirror.startswith(("https://", "http://", "file:")):
            raise ValueError("is no https:, http: or file: address")
        return mirror


class Download(Mirror):
    """What the download stage is told."""

    date: Annotated[str | None, knob("date of the dump, YYYYMMDD", pattern=r"^\d{8}$")] = None
    contact: Annotated[str, knob("mail address or page that Wikimedia can reach you by", neutral=True)] = ""


class Extract(Section):
    """What of an article becomes text."""

    headings: Annotated[bool, knob("keep section headings, on lines of their own")] = True
    lists: Annotated[bool, knob("keep list items, on lines of their own")] = True
    templates: Annotated[
        str, knob("a table of templates (.yaml) that extends formats/templates.yaml; its content counts", neutral=True)
    ] = ""
    time_limit: Annotated[
        int, knob("seconds that wikiextractor may take for one article; those beyond are dropped", ge=1)
    ] = 600


class ImportText(Section):
    """How local text is read."""

    text_column: Annotated[str, knob("column of .parquet, key of .jsonl files that has the text", min_length=1)] = (
        "text"
    )
    max_line_bytes: Annotated[int, knob("longer lines are left out (bytes)", ge=1, le=1 << 24)] = 1_000_000
    strict: Annotated[
        bool, knob("fail where bytes are no UTF-8, at control characters and too long lines, instead of mending them")
    ] = False


class NoKnobs(Section):
    """What a stage is told that has nothing to set."""


class Segment(Section):
    """How paragraphs are cut into sentences."""

    # neutral is where the dictionary lies; what is in it is a parameter of the rule
    dictionary: Annotated[str, knob("unidic, unidic-lite or the path of a compiled UniDic folder", neutral=True)] = (
        "unidic"
    )
    words: Annotated[bool, knob("also store the boundaries of the dictionary's words")] = False


class Filter(Section):
    """Which documents are good enough; shares are of characters unless they say otherwise."""

    min_characters: Annotated[int, knob("shorter documents are dropped (characters)", ge=0)] = 100
    max_characters: Annotated[int, knob("longer documents are dropped (characters)", ge=1)] = 1_000_000
    dup_line_frac: Annotated[float, knob("most share of the lines that repeat an earlier one", ge=0, le=1)] = 1.0
    char_duplicates_ratio: Annotated[float, knob("most share of the text in repeated lines", ge=0, le=1)] = 1.0
    line_punct_thr: Annotated[float, knob("least share of the lines that end as sentences do", ge=0, le=1)] = 0.0
    new_line_ratio: Annotated[float, knob("most line ends a character", ge=0, le=1)] = 1.0
    min_letters: Annotated[float, knob("least share of letters: kana, kanji, Latin, ...", ge=0, le=1)] = 0.0
    min_kana: Annotated[float, knob("least share of kana", ge=0, le=1)] = 0.0
    min_compression_ratio: Annotated[float, knob("least size by zstandard, as share of the bytes", ge=0)] = 0.0
    max_compression_ratio: Annotated[float, knob("most size by zstandard, as share of the bytes", ge=0)] = 100.0
    hojichar: Annotated[list[HojiChar], knob("HojiChar's filters to apply too, by name")] = []

    @model_validator(mode="after")
    def bounds_leave_something(self) -> "Filter":
        """Refuse bounds that no document is between."""
        for what in ("characters", "compression_ratio"):
            least, most = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if least > most:
                raise ValueError(f"min_{what} {least} is more than max_{what} {most}")
        return self


class Signature(Section):
    """How documents are signed for the search for duplicates."""

    ngram: Annotated[int, knob("characters of the pieces that similar texts share", ge=1, le=100)] = 5
    num_perm: Annotated[int, knob("numbers of a MinHash; more tell similarity more exactly", ge=1, le=4096)] = 128


class Filtering(Filter, Signature):
    """What the filter stage is told."""


class Dedup(Signature):
    """Which documents count as the same."""

    exact: Annotated[bool, knob("drop documents equal to another after normalisation")] = True
    near: Annotated[bool, knob("drop documents similar to another")] = True
    threshold: Annotated[float, knob("similarity (Jaccard of the n-grams, by MinHash) from which on", gt=0, le=1)] = 0.8
    bands: Annotated[int, knob("bands of the MinHash; only texts that share one are compared", ge=1)] = 16

    @model_validator(mode="after")
    def bands_divide(self) -> "Dedup":
        """Refuse bands of unequal height."""
        if self.num_perm % self.bands:
            raise ValueError(f"num_perm {self.num_perm} is no multiple of bands {self.bands}")
        return self


class Split(Section):
    """How articles are assigned to train, valid and test."""

    valid_fraction: Annotated[float, knob("share of the articles in valid", gt=0, lt=0.5)] = 0.01
    test_fraction: Annotated[float, knob("share of the articles in test", gt=0, lt=0.5)] = 0.01
    salt: Annotated[str, knob("another salt draws other articles")] = "jalm"


class Deduplication(Dedup, Split):
    """What the dedup stage is told: the sides too, because train gives way to valid and test."""


class Corpus(Section):
    """What every kind of corpus has."""

    parts: Annotated[int, knob("pieces that the corpus is worked on in, each a job", ge=1, le=100)] = 32
    license: Annotated[str, knob("SPDX name of the licence, for the model card")]
    attribution: Annotated[str, knob("whom the licence wants named, for the model card")] = ""
    filter: Annotated[Filter | None, knob("rules of its own on top of the common ones, or a preset of its own")] = None


class MediaWiki(Corpus, Mirror):
    """A wiki's dump."""

    source: Literal["mediawiki"]


class Text(Corpus, ImportText):
    """Local text."""

    source: Literal["text"]
    paths: Annotated[
        list[str],
        knob(
            ".txt, .jsonl (also with .xz; .jsonl.zst), .parquet files, folders of .txt, each a document", min_length=1
        ),
    ]


# ---- tokenizers and models


class TrainTokenizer(Section):
    """How a SentencePiece model is trained; names are SentencePiece's own where it has one."""

    vocab_size: Annotated[int, knob("pieces, counting special tokens and bytes", ge=300, le=1_000_000)] = 32000
    model_type: Annotated[Literal["unigram"], knob("algorithm")] = "unigram"
    character_coverage: Annotated[
        float, knob("share of characters with a piece of their own; the rest become byte pieces", ge=0.98, le=1)
    ] = 0.9995
    normalization: Annotated[
        Literal["nfkc", "none"], knob("nfkc: ～ becomes 〜, then Unicode NFKC; lives in the exported tokenizer")
    ] = "nfkc"
    split_digits: Annotated[bool, knob("one piece a digit")] = True
    sample_mb: Annotated[float, knob("text drawn from train for the training, megabytes (UTF-8)", gt=0)] = 200
    seed: Annotated[str, knob("another seed draws other articles")] = "jalm"
    num_threads: Annotated[int, knob("threads of the trainer; another number gives other pieces", ge=1)] = 8


class Tokenizer(TrainTokenizer):
    """A tokenizer of the configuration."""

    corpora: Annotated[list[str], knob("corpora whose train side is sampled, each by its size", min_length=1)]


Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "relu2", "silu"]  # of transformers' ACT2FN


class GPT2(Section):
    """Sizes of a GPT-2, by the names of transformers' GPT2Config."""

    n_layer: Annotated[int, knob("blocks", ge=1)] = 12
    n_head: Annotated[int, knob("attention heads", ge=1)] = 12
    n_embd: Annotated[int, knob("width", ge=1)] = 768
    n_inner: Annotated[int | None, knob("width inside the feed-forward layers; null: 4 x n_embd", ge=1)] = None
    activation_function: Annotated[Activation, knob("of the feed-forward layers")] = "gelu_new"
    resid_pdrop: Annotated[float, knob("dropout after each sublayer", ge=0, lt=1)] = 0.0
    embd_pdrop: Annotated[float, knob("dropout of the embeddings", ge=0, lt=1)] = 0.0
    attn_pdrop: Annotated[float, knob("dropout of the attention weights", ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def heads_divide_width(self) -> "GPT2":
        """Refuse heads of unequal width."""
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is no multiple of n_head {self.n_head}")
        return self


class Roberta(Section):
    """Sizes of a RoBERTa, by the names of transformers' RobertaConfig."""

    num_hidden_layers: Annotated[int, knob("blocks", ge=1)] = 12
    num_attention_heads: Annotated[int, knob("attention heads", ge=1)] = 12
    hidden_size: Annotated[int, knob("width", ge=1)] = 768
    intermediate_size: Annotated[int, knob("width inside the feed-forward layers", ge=1)] = 3072
    hidden_act: Annotated[Activation, knob("activation of the feed-forward layers")] = "gelu"
    hidden_dropout_prob: Annotated[float, knob("dropout of embeddings and sublayers", ge=0, lt=1)] = 0.0
    attention_probs_dropout_prob: Annotated[float, knob("dropout of the attention weights", ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def heads_divide_width(self) -> "Roberta":
        """Refuse heads of unequal width."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}"
            )
        return self


ARCHITECTURES: dict[str, type[Section]] = {"gpt2": GPT2, "roberta": Roberta}


class Pretrain(Section):
    """What the pretrain stage is told; names are those of transformers' TrainingArguments where it has one."""

    architecture: Annotated[Literal["gpt2", "roberta"], knob("kind of model")]
    config: Annotated[GPT2 | Roberta, knob("sizes, by the names of the architecture's transformers config")]
    corpora: Annotated[
        dict[str, Annotated[float, Field(gt=0)]],
        knob("passes over each corpus an epoch: 1 is each block once", min_length=1),
    ]
    block_size: Annotated[int, knob("tokens of a sequence; also the model's positions", ge=8)] = 1024
    global_batch_size: Annotated[int, knob("sequences of an optimizer step, over all devices", ge=1)] = 512
    max_steps: Annotated[int, knob("optimizer steps", ge=1)]
    learning_rate: Annotated[float, knob("its maximum", gt=0)] = 6e-4
    lr_scheduler_type: Annotated[
        Literal["constant", "linear", "cosine", "warmup_stable_decay"], knob("course of the learning rate")
    ] = "warmup_stable_decay"
    warmup_steps: Annotated[int, knob("steps of linear warm-up", ge=0)] = 0
    decay_fraction: Annotated[
        float, knob("share of max_steps at the end of warmup_stable_decay that falls to zero", gt=0, le=1)
    ] = 0.2
    weight_decay: Annotated[float, knob("of matrices and embeddings, not of biases and norms", ge=0)] = 0.1
    adam_beta1: Annotated[float, knob("AdamW", ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, knob("AdamW", ge=0, lt=1)] = 0.95
    adam_epsilon: Annotated[float, knob("AdamW", gt=0)] = 1e-8
    max_grad_norm: Annotated[float, knob("gradients are clipped to this norm; 0: never", ge=0)] = 1.0
    mlm_probability: Annotated[float, knob("share of the tokens that a masked model predicts", gt=0, lt=1)] = 0.15
    mixed_precision: Annotated[Literal["no", "bf16"], knob("as accelerate calls it")] = "bf16"
    seed: Annotated[int, knob("decides initial weights, order of the blocks, masks and dropout", ge=0)] = 42
    per_device_train_batch_size: Annotated[
        int, knob("sequences in memory at once; moves rounding, and which units dropout draws", neutral=True, ge=1)
    ] = 16
    logging_steps: Annotated[int, knob("steps between lines of log.jsonl", neutral=True, ge=1)] = 50
    eval_steps: Annotated[int, knob("steps between validations", neutral=True, ge=1)] = 1000
    eval_blocks: Annotated[int, knob("blocks of each valid set that a validation uses", neutral=True, ge=1)] = 1000
    save_steps: Annotated[int, knob("steps between checkpoints", neutral=True, ge=1)] = 1000
    save_total_limit: Annotated[int, knob("checkpoints kept", neutral=True, ge=1)] = 2
    time_budget: Annotated[
        float,
        knob("minutes until the state is saved and the run ends; 0: its Slurm job's limit, if any", neutral=True, ge=0),
    ] = 0

    @model_validator(mode="before")
    @classmethod
    def config_of_the_architecture(cls, values: Any) -> Any:
        """Read `config` as the section that belongs to `architecture`."""
        kind = ARCHITECTURES.get(values.get("architecture")) if isinstance(values, dict) else None
        if kind and isinstance(values.get("config"), Mapping):
            try:
                return {**values, "config": kind(**values["config"])}
            except ValidationError as error:
                details = "; ".join(
                    f"{'.'.join(map(str, e['loc'])) or 'sizes'} is {e['input']!r}: {_reason(e, kind)}"
                    for e in error.errors()
                )
                raise ValueError(f"config of a {values['architecture']}: {details}") from None
        return values

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def no_is_a_word(cls, value: Any) -> Any:
        """Take an unquoted no, which YAML reads as false."""
        return "no" if value is False else value

    @model_validator(mode="after")
    def batch_divides(self) -> "Pretrain":
        """Refuse a global batch that cannot be cut into batches of a device."""
        total, device = self.global_batch_size, self.per_device_train_batch_size
        if total % device:
            near = sorted({max(device, total // device * device), -(-total // device) * device})
            raise ValueError(
                f"global_batch_size {total} does not divide into per_device_train_batch_size {device}; "
                f"use {' or '.join(map(str, near))}"
            )
        if self.warmup_steps > self.max_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is more than max_steps {self.max_steps}")
        return self


class Generation(Section):
    """Defaults of `generate()` in the exported folder, by transformers' GenerationConfig."""

    do_sample: Annotated[bool, knob("draw tokens instead of taking the likeliest")] = True
    max_new_tokens: Annotated[int, knob("tokens", ge=1)] = 100
    temperature: Annotated[float, knob("below 1 safer, above 1 wilder", gt=0)] = 1.0
    top_k: Annotated[int, knob("draw from the k likeliest; 0: from all", ge=0)] = 50
    top_p: Annotated[float, knob("draw from the likeliest that make up this share", gt=0, le=1)] = 0.95


class Model(Pretrain):
    """A model of the configuration."""

    tokenizer: Annotated[str, knob("name of a tokenizer")]
    generation: Annotated[Generation, knob("defaults of generate()")] = Generation()

    @model_validator(mode="after")
    def generation_fits(self) -> "Model":
        """Refuse a default that runs over the model's positions, where generate() ends with an IndexError."""
        if isinstance(self.config, GPT2) and self.generation.max_new_tokens >= self.block_size:
            raise ValueError(
                f"generation.max_new_tokens {self.generation.max_new_tokens} must be less than block_size "
                f"{self.block_size}; set generation: {{max_new_tokens: {self.block_size // 2}}}"
            )
        return self


class Evaluate(Section):
    """How a model is evaluated."""

    mlm_probability: Annotated[float, knob("share of the tokens that a masked model has to predict", gt=0, lt=1)] = 0.15
    batch_size: Annotated[int, knob("sequences in memory at once", neutral=True, ge=1)] = 16


class Export(Section):
    """What the export stage is told."""

    name: Annotated[str, knob("name of the model, for its card")]
    generation: Annotated[Generation, knob("defaults of generate()")] = Generation()
    data: Annotated[list[dict[str, str]], knob("name, license and attribution of each corpus, for the card")] = []


class Pin(Section):
    """Older results to go on using."""

    tokenizer: Annotated[str | None, knob("dump date of the tokenizers to use", pattern=r"^\d{8}$")] = None


# ---- the whole


class Config(Section):
    """The whole configuration."""

    dump_date: Annotated[str, knob("date of the dumps, YYYYMMDD")]
    contact: Annotated[str, knob("mail address or page that Wikimedia can reach you by", neutral=True)] = ""
    corpora: dict[Annotated[str, Field(pattern=NAME)], Annotated[MediaWiki | Text, Field(discriminator="source")]] = (
        Field(min_length=1)
    )
    pin: Pin = Pin()
    extract: Extract = Extract()
    segment: Segment = Segment()
    filter: Filter = Filter()
    dedup: Dedup = Dedup()
    split: Split = Split()
    evaluate: Evaluate = Evaluate()
    tokenizers: dict[Annotated[str, Field(pattern=NAME)], Tokenizer] = {}
    models: dict[Annotated[str, Field(pattern=NAME)], Model] = {}

    @field_validator("dump_date")
    @classmethod
    def is_a_date(cls, value: str) -> str:
        """Refuse what is no day of the calendar, `latest` too: a name must mean one dump for ever."""
        try:
            if not re.fullmatch("[0-9]{8}", value):  # strptime takes spaces and full-width digits too
                raise ValueError
            datetime.datetime.strptime(value, "%Y%m%d")
        except ValueError:
            raise ValueError("no date YYYYMMDD") from None
        return value

    @model_validator(mode="after")
    def names_exist(self) -> "Config":
        """Refuse names of tokenizers and corpora that no entry has, and corpora that would share their paths."""
        for name in self.corpora:
            if name != (dated := self.corpus_id(name)) and dated in self.corpora:
                raise ValueError(f"corpora.{dated} has the name in paths of corpora.{name}; rename one")
        for name, tokenizer in self.tokenizers.items():
            for corpus in tokenizer.corpora:
                _one_of(corpus, self.corpora, ("tokenizers", name, "corpora"))
        for name, model in self.models.items():
            _one_of(model.tokenizer, self.tokenizers, ("models", name, "tokenizer"))
            for corpus in model.corpora:
                _one_of(corpus, self.corpora, ("models", name, "corpora"))
        return self

    def corpus_id(self, corpus: str) -> str:
        """Name of a corpus in paths: dated if it comes from a dump."""
        return f"{corpus}-{self.dump_date}" if isinstance(self.corpora[corpus], MediaWiki) else corpus

    def tokenizer_id(self, tokenizer: str) -> str:
        """Name of a tokenizer in paths, with the pinned date if there is one."""
        return f"{tokenizer}-{self.pin.tokenizer or self.dump_date}"

    def model_id(self, model: str) -> str:
        """Name of a model in paths."""
        return f"{model}-{self.dump_date}"

    def download(self, corpus: str) -> Download:
        """What the download stage is told for one corpus."""
        mirror = {name: getattr(self.corpora[corpus], name) for name in Mirror.model_fields}
        return Download(date=self.dump_date, contact=self.contact, **mirror)

    def filtering(self, corpus: str) -> Filtering:
        """What the filter stage is told for one corpus."""
        rules = self.corpora[corpus].filter or self.filter
        signature = {name: getattr(self.dedup, name) for name in Signature.model_fields}
        return Filtering(**dict(rules), **signature)

    def deduplication(self) -> Deduplication:
        """What the dedup stage is told."""
        return Deduplication(**dict(self.dedup), **dict(self.split))

    def export(self, model: str) -> Export:
        """What the export stage is told for one model."""
        data = [
            {
                "name": self.corpus_id(name),
                "license": self.corpora[name].license,
                "attribution": self.corpora[name].attribution,
            }
            for name in self.models[model].corpora
        ]
        return Export(name=self.model_id(model), generation=self.models[model].generation, data=data)


class _UnknownName(ValueError):
    """A name that no entry has; `loc` is where it was given."""

    def __init__(self, message: str, loc: tuple[str, ...]) -> None:
        super().__init__(message)
        self.loc = loc


def _one_of(name: str, known: Mapping[str, Any], loc: tuple[str, ...]) -> None:
    if name not in known:
        verb = "has" if loc[-1] == "corpora" else "is"
        choice = ", ".join(known) or "(none)"
        raise _UnknownName(f"{'.'.join(loc)} {verb} {name!r}, which is not one of: {choice}", loc)


# ---- from YAML


def load(values: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]] | None = None) -> Config:
    """The validated configuration.

    Args:
        values: the merged configuration, as Snakemake gives it.
        sources: where each key may come from: name of a file (or "--config") to its content, the later ones on top.

    Raises:
        UnknownDate: `dump_date` is no date.
        ConfigError: anything else that is wrong, all mistakes at once, each with its place.
    """
    values = _with_nulls(values)
    sources = sources or {"config.yaml": values}
    for group in ("corpora", "tokenizers", "models"):
        if isinstance(values.get(group), Mapping):
            values[group] = {str(name): entry for name, entry in values[group].items() if entry is not None}
    models, corpora, rules = (values.get(group) for group in ("models", "corpora", "filter"))
    if isinstance(models, Mapping):
        values["models"] = {
            name: _with_preset(entry, PRESETS, ("models", name), sources) for name, entry in models.items()
        }
    if isinstance(corpora, Mapping):
        values["corpora"] = {name: _with_filter(entry, rules, name, sources) for name, entry in corpora.items()}
    if rules is not None:
        values["filter"] = _with_preset(rules, PRESETS / "filter", ("filter",), sources)
    try:
        return Config(**values)
    except ValidationError as error:
        lines = [f"{_place(_keys(e), sources)}: {_describe(e)}" for e in error.errors()]
        date_is_wrong = any(e["loc"] == ("dump_date",) for e in error.errors())
        raise (UnknownDate if date_is_wrong else ConfigError)("\n".join(lines)) from None


def _with_nulls(value: Any) -> Any:
    """`value` with None for "null", which is what Snakemake makes of a null inside --config."""
    if isinstance(value, Mapping):
        return {key: _with_nulls(entry) for key, entry in value.items()}
    return None if value == "null" else value


def _with_preset(entry: Any, folder: Path, keys: tuple[str, ...], sources: Mapping[str, Mapping[str, Any]]) -> Any:
    """An entry on top of its preset, without the corpora that it sets to null."""
    if not isinstance(entry, Mapping):
        return entry
    entry = dict(entry)
    if "preset" in entry:
        name = entry.pop("preset")
        presets = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        if not isinstance(name, str) or name not in presets:
            where = f"{_place((*keys, 'preset'), sources)}: {'.'.join(keys)}"
            raise ConfigError(f"{where}.preset is {name!r}, which is not one of: {', '.join(presets)}")
        entry = merge(yaml.safe_load(presets[name].read_text(encoding="utf-8")), entry)
    if isinstance(entry.get("corpora"), Mapping):
        entry["corpora"] = {corpus: weight for corpus, weight in entry["corpora"].items() if weight is not None}
    return entry


def _with_filter(entry: Any, common: Any, name: str, sources: Mapping[str, Mapping[str, Any]]) -> Any:
    """A corpus with its own filter spelt out: on top of its own preset, else on top of the common rules."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("filter"), Mapping):
        return entry
    own = entry["filter"]
    if "preset" not in own and isinstance(common, Mapping):
        own = merge(common, own)
    return {**entry, "filter": _with_preset(own, PRESETS / "filter", ("corpora", name, "filter"), sources)}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the keys of `above` on top, mappings inside merged likewise."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _keys(error: dict) -> tuple[str, ...]:
    """The keys that lead to a mistake."""
    if error["type"] == "value_error" and isinstance(error["ctx"]["error"], _UnknownName):
        return error["ctx"]["error"].loc
    keys = [str(key) for key in error["loc"] if key != "[key]"]  # pydantic's mark of a wrong key
    if keys[:1] == ["corpora"]:
        del keys[2:3]  # pydantic's name for the kind of corpus
    return tuple(keys)


def _place(keys: tuple[str, ...], sources: Mapping[str, Mapping[str, Any]]) -> str:
    """The source that the value at `keys` was last set in."""
    for name, content in reversed(sources.items()):
        for key in keys:
            if not isinstance(content, Mapping) or key not in content:
                break
            content = content[key]
        else:
            return name
    return ", ".join(sources)


def _describe(error: dict) -> str:
    path = ".".join(_keys(error))
    if error["type"] == "missing":
        return f"{path} is missing"
    if error["type"] == "value_error" and isinstance(error["input"], (Mapping, BaseModel)):
        cause = error["ctx"]["error"]
        return str(cause) if isinstance(cause, _UnknownName) else f"{path}: {cause}"
    if error["type"] == "extra_forbidden":
        return f"{path} is {_reason(error, _section_at(error['loc']))}"
    return f"{path} is {error['input']!r}: {_reason(error, None)}"


def _reason(error: dict, section: type[Section] | None) -> str:
    if error["type"] == "extra_forbidden":
        known = list(section.model_fields) if section else []
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return "not a known key" + (f"; did you mean {near[0]}?" if near else f"; known are: {', '.join(known)}")
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return error["msg"]


def _section_at(loc: tuple) -> type[Section]:
    """The section that an unknown key at `loc` was written in."""
    if len(loc) == 1:
        return Config
    if loc[0] == "corpora":
        return Filter if loc[3] == "filter" else {"mediawiki": MediaWiki, "text": Text}[loc[2]]
    if loc[0] == "models":
        return Generation if "generation" in loc else Model
    return Tokenizer if loc[0] == "tokenizers" else Config.model_fields[loc[0]].annotation


# ---- to and from the command line


def is_neutral(info: FieldInfo) -> bool:
    """Whether a knob cannot change the bytes of a result."""
    return bool(info.json_schema_extra and info.json_schema_extra["neutral"])


def flags(section: Section, kind: type[Section] | None = None, *, neutral: bool = False) -> str:
    """Options that spell out every knob of `section`, defaults too, quoted for a shell.

    Args:
        section: the knobs.
        kind: the base class of `section` whose knobs are meant, when a stage is not told all.
        neutral: the knobs that cannot change a result instead of those that can.
    """
    return " ".join(
        f"--{name.replace('_', '-')}={shlex.quote(_encode(getattr(section, name)))}"  # =, or a value -x were an option
        for name, info in (kind or type(section)).model_fields.items()
        if is_neutral(info) == neutral
    )


def decode(section: type[Section], values: Mapping[str, str]) -> Section:
    """The section that options with these values spell out.

    Raises:
        ConfigError: a value outside its bounds.
    """
    try:
        return section(**{name: _decode(section.model_fields[name], value) for name, value in values.items()})
    except ValidationError as error:
        lines = []
        for e in error.errors():
            option = "--" + str(e["loc"][0]).replace("_", "-") + ": " if e["loc"] else ""
            whole = isinstance(e["input"], (Mapping, BaseModel))
            lines.append(f"{option}{_reason(e, None)}" if whole else f"{option}{e['input']!r}: {_reason(e, None)}")
        raise ConfigError("\n".join(lines)) from None


def help_text(info: FieldInfo) -> str:
    """Help text of a knob: its meaning and default."""
    default = "" if info.is_required() else f" (default: {_encode(info.default) or repr('')})"
    return (info.description + default).replace("%", "%%")


def _encode(value: Any) -> str:
    if isinstance(value, str):
        return value
    plain = value.model_dump() if isinstance(value, BaseModel) else value
    return json.dumps(plain, ensure_ascii=False)


def _decode(info: FieldInfo, text: str) -> Any:
    union = get_origin(info.annotation) in (Union, UnionType)
    kinds = get_args(info.annotation) if union else (info.annotation,)
    if str in kinds:
        return None if text == "null" and NoneType in kinds else text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
