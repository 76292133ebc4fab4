"""Every knob: its name, type, bounds, default, meaning, and whether it can change a result.

`config.yaml` is read into `Config`; the same sections make the options of the stages (`jalm segment --help`) and the
`params.flags` of the rules. Keys that are not here are errors.
"""

import datetime
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, ValidationInfo, field_validator, model_validator

from jalm.knobs import DATE, NAME, REPOSITORY, SHA1, WIKI, ConfigError, Section, knob, reason, settings
from jalm.sizes import ARCHITECTURES, MASKED, Sizes

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


class UnknownDate(ConfigError):
    """`dump_date` is no date; the dates that the mirror offers are what the user needs to see."""


# ---- corpora


class Mirror(Section):
    """Where the dumps of a wiki are."""

    wiki: Annotated[str, knob("name of the wiki at the mirror", pattern=WIKI)] = "jawiki"
    layout: Annotated[
        Literal["classic", "content", "auto"],
        knob("of the mirror: classic (articles), content (mediawiki_content_current); auto: classic if it is done"),
    ] = "auto"
    sha1: Annotated[str | None, knob("checksum that the dump must have, beside the mirror's own", pattern=SHA1)] = None
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

    date: Annotated[str | None, knob("date of the dump, YYYYMMDD", pattern=DATE)] = None
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
    dataset: Annotated[str, knob("id of a data set on the Hub that this text is, for the model card")] = ""
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


Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TrainTokenizer(Section):
    """How a SentencePiece model is trained; names are SentencePiece's own where it has one."""

    corpora: Annotated[
        Annotated[list[str], Tag("list"), Field(min_length=1)]
        | Annotated[dict[str, Weight], Tag("mapping"), Field(min_length=1)],
        Discriminator(lambda value: "mapping" if isinstance(value, Mapping) else "list"),
        knob("corpora whose train side is sampled: a list, each by its size, or the share of each in the sample"),
    ]
    vocab_size: Annotated[int, knob("pieces, counting special tokens and bytes", ge=300, le=1_000_000)] = 32000
    model_type: Annotated[Literal["unigram", "bpe"], knob("algorithm")] = "unigram"
    character_coverage: Annotated[
        float, knob("share of characters with a piece of their own; for the rest see byte_fallback", ge=0.98, le=1)
    ] = 0.9995
    byte_fallback: Annotated[bool, knob("a character without a piece becomes its bytes; false: <unk>")] = True
    normalization: Annotated[
        Literal["nfkc", "nfkc_lower", "none"],
        knob("nfkc: ～ becomes 〜, then Unicode NFKC; nfkc_lower: in lower case too; lives in the exported tokenizer"),
    ] = "nfkc"
    split_digits: Annotated[bool, knob("one piece a digit")] = True
    pretokenizer: Annotated[
        Literal["none", "unidic"], knob("unidic: no piece goes beyond a word of segment's dictionary; training only")
    ] = "none"
    sample_mb: Annotated[float, knob("text drawn from train for the training, megabytes (UTF-8)", gt=0)] = 200.0
    seed: Annotated[str, knob("another seed draws other articles")] = "jalm"
    num_threads: Annotated[int, knob("threads of the trainer; another number gives other pieces", ge=1)] = 8


class Tokenizer(TrainTokenizer):
    """A tokenizer of the configuration."""

    model: Annotated[str, knob("a SentencePiece .model of your own to use instead of training one")] = ""

    @model_validator(mode="after")
    def nothing_to_train(self) -> "Tokenizer":
        """Refuse knobs of the training beside a model that is not trained."""
        idle = sorted(self.model_fields_set & TrainTokenizer.model_fields.keys() - {"corpora", "sample_mb", "seed"})
        if self.model and idle:
            raise ValueError(f"model is {self.model!r}, which is used as it is; leave out {', '.join(idle)}")
        return self


def multiples(number: int, unit: int) -> str:
    """The multiples of `unit` next to a number, for advice.

    >>> multiples(16, 7), multiples(3, 8)
    ('14 or 21', '8')
    """
    near = {max(unit, number // unit * unit), -(-number // unit) * unit}
    return " or ".join(map(str, sorted(near)))


class Pretrain(Section):
    """What the pretrain stage is told; names are those of transformers' TrainingArguments where it has one."""

    architecture: Annotated[Literal["gpt2", "gpt_neo", "llama", "roberta", "bert", "modernbert"], knob("kind of model")]
    config: Annotated[Sizes, knob("sizes, by the names of the architecture's transformers config")]
    init_model: Annotated[
        str,
        knob(
            "folder, or name on the Hub (owner/name@revision), of a model of the same sizes and tokenizer to start from; "
            "empty: new weights"
        ),
    ] = ""
    corpora: Annotated[
        dict[str, Annotated[float, Field(gt=0)]],
        knob("passes over each corpus an epoch: 1 is each block once", min_length=1),
    ]
    block_size: Annotated[int, knob("tokens of a sequence; also the model's positions", ge=8)] = 1024
    global_batch_size: Annotated[int, knob("sequences of an optimizer step, over all devices", ge=1)] = 512
    max_steps: Annotated[int, knob("optimizer steps", ge=1)]
    optim: Annotated[
        Literal["adamw", "muon"], knob("muon: Muon for the matrices of the blocks, AdamW for all else")
    ] = "adamw"
    learning_rate: Annotated[float, knob("its maximum; Muon's updates are scaled to the size of AdamW's", gt=0)] = 6e-4
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
    mask_replace_prob: Annotated[float, knob("share of these that become [MASK]", ge=0, le=1)] = 0.8
    random_replace_prob: Annotated[float, knob("share that become another piece; the rest stay", ge=0, le=1)] = 0.1
    whole_word_mask: Annotated[
        bool, knob("predict all tokens of a word or none; needs shards of a corpus segmented with words: true")
    ] = False
    mixed_precision: Annotated[Literal["no", "bf16", "fp16"], knob("as accelerate calls it")] = "bf16"
    seed: Annotated[int, knob("decides initial weights, order of the blocks, masks and dropout", ge=0, lt=2**63)] = 42
    per_device_train_batch_size: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"],
        knob(
            "sequences in memory at once; auto: the most that fit; moves rounding, and which units dropout draws",
            neutral=True,
        ),
    ] = 16
    torch_compile: Annotated[
        Literal["auto", "true", "false"],
        knob("compile model and loss; auto: where there is a compiler and the training is long", neutral=True),
    ] = "auto"
    gradient_checkpointing: Annotated[
        bool, knob("compute activations twice instead of keeping them: less memory, a third slower", neutral=True)
    ] = False
    full_determinism: Annotated[
        bool, knob("only algorithms that give the same bits each time on a GPU too; slower there", neutral=True)
    ] = False
    logging_steps: Annotated[int, knob("steps between lines of log.jsonl", neutral=True, ge=1)] = 50
    eval_steps: Annotated[int, knob("steps between validations", neutral=True, ge=1)] = 1000
    eval_blocks: Annotated[int, knob("blocks of each valid set that a validation uses", neutral=True, ge=1)] = 1000
    save_steps: Annotated[int, knob("steps between checkpoints", neutral=True, ge=1)] = 1000
    save_total_limit: Annotated[int, knob("last checkpoints kept", neutral=True, ge=1)] = 2
    keep_best: Annotated[
        bool, knob("keep the checkpoint with the lowest validation loss of those that have one, too", neutral=True)
    ] = True
    keep_steps: Annotated[int, knob("keep the checkpoints of every so many steps; 0: of none", neutral=True, ge=0)] = 0
    report_to: Annotated[
        list[Literal["tensorboard", "wandb", "mlflow", "trackio"]], knob("accelerate's trackers", neutral=True)
    ] = []
    time_budget: Annotated[
        float,
        knob("minutes until the state is saved and the run ends; 0: its Slurm job's limit, if any", neutral=True, ge=0),
    ] = 0

    @field_validator("config", mode="wrap")
    @classmethod
    def config_of_the_architecture(cls, value: Any, _: Any, info: ValidationInfo) -> Any:
        """Read `config` as the section that belongs to `architecture`."""
        if not (kind := ARCHITECTURES.get(info.data.get("architecture"))):
            return value  # whether it is right cannot be told, and what is wrong is told of the architecture
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            details = (
                f"{'.'.join(map(str, e['loc']))} is {e['input']!r}: {reason(e, kind)}" if e["loc"] else reason(e, kind)
                for e in error.errors()
            )
            raise ValueError(f"sizes of a {info.data['architecture']}: {'; '.join(details)}") from None

    @field_validator("per_device_train_batch_size", mode="wrap")
    @classmethod
    def number_or_auto(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        """Say what is wrong once, where pydantic would say it of the number and of auto."""
        try:
            return handler(value)
        except ValidationError:
            raise ValueError("neither auto nor a whole number from 1 on") from None

    @field_validator("mixed_precision", "torch_compile", mode="before")
    @classmethod
    def yaml_reads_words(cls, value: Any, info: ValidationInfo) -> Any:
        """Take an unquoted no, true or false, which YAML reads as a truth value."""
        if info.field_name == "mixed_precision":
            return "no" if value is False else value
        return str(value).lower() if isinstance(value, bool) else value

    @model_validator(mode="after")
    def knobs_agree(self) -> "Pretrain":
        """Refuse knobs that contradict each other."""
        total, device = self.global_batch_size, self.per_device_train_batch_size
        if device != "auto" and total % device:
            raise ValueError(
                f"global_batch_size {total} does not divide into per_device_train_batch_size {device}; "
                f"use {multiples(total, device)}"
            )
        if self.warmup_steps > self.max_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} is more than max_steps {self.max_steps}")
        decay = max(1, round(self.max_steps * self.decay_fraction))  # as optimizers.decay_steps has it
        if self.lr_scheduler_type == "warmup_stable_decay" and self.warmup_steps + decay > self.max_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and {decay} steps of decay (decay_fraction {self.decay_fraction:g}) "
                f"are more than max_steps {self.max_steps} together; lower one of them, or raise max_steps"
            )
        if (both := self.mask_replace_prob + self.random_replace_prob) > 1:
            raise ValueError(f"mask_replace_prob and random_replace_prob are {both} together, more than 1")
        if self.whole_word_mask and self.architecture not in MASKED:
            raise ValueError(
                f"whole_word_mask is for models that predict masked tokens, a {self.architecture} does not"
            )
        return self


class Generation(Section):
    """Defaults of `generate()` in the exported folder, by transformers' GenerationConfig."""

    do_sample: Annotated[bool, knob("draw tokens instead of taking the likeliest")] = True
    max_new_tokens: Annotated[int, knob("tokens; if not set, half of block_size where 100 do not fit", ge=1)] = 100
    temperature: Annotated[float, knob("below 1 safer, above 1 wilder", gt=0)] = 1.0
    top_k: Annotated[int, knob("draw from the k likeliest; 0: from all", ge=0)] = 50
    top_p: Annotated[float, knob("draw from the likeliest that make up this share", gt=0, le=1)] = 0.95


class Publish(Section):
    """Where a model is published; names are huggingface_hub's where it has one."""

    repo_id: Annotated[str, knob("repository on the Hugging Face Hub, NAMESPACE/NAME", pattern=REPOSITORY)]
    private: Annotated[bool, knob("make it a private repository; one that is public is then refused")] = True
    tag: Annotated[str | None, knob("tag of this version; null: the date at the end of the model's name")] = None
    move_tag: Annotated[bool, knob("take the tag away from another version that has it", neutral=True)] = False
    overwrite: Annotated[
        bool, knob("replace files that others changed at the Hub, and what is no older version", neutral=True)
    ] = False
    allow_dirty: Annotated[
        bool, knob("publish what a changed clone made, or none; the commit message says so", neutral=True)
    ] = False


class Model(Pretrain):
    """A model of the configuration."""

    tokenizer: Annotated[str, knob("name of a tokenizer")]
    generation: Annotated[Generation, knob("defaults of generate()", validate_default=True)] = Generation()
    license: Annotated[str, knob("SPDX name of a licence for the weights; empty: that of the training text")] = ""
    onnx: Annotated[bool, knob("export an ONNX graph of the model too")] = False
    publish: Annotated[Publish | None, knob("where it is published")] = None

    @field_validator("generation")
    @classmethod
    def generation_fits(cls, generation: Generation, info: ValidationInfo) -> Generation:
        """Keep generate() within the model's positions, beyond which it ends with an IndexError."""
        asked, size = generation.max_new_tokens, info.data.get("block_size", math.inf)
        if asked < size or info.data.get("architecture") in MASKED:
            return generation
        if "max_new_tokens" in generation.model_fields_set:
            raise ValueError(f"max_new_tokens {asked} must be less than block_size {size}; set it to {size // 2}")
        return generation.model_copy(update={"max_new_tokens": size // 2})


class Evaluate(Section):
    """How a model is evaluated."""

    measures: Annotated[
        list[Literal["sliding", "by_document", "pseudo_perplexity"]],
        knob("what is measured beside disjoint blocks: the first two of causal models, the third of masked ones"),
    ] = ["sliding", "by_document", "pseudo_perplexity"]
    block_size: Annotated[
        int | None,
        knob("tokens that a model sees at once; null: as many as it takes, of other people's 4096 at most", ge=8),
    ] = None
    mlm_probability: Annotated[float, knob("share of the tokens that a masked model has to predict", gt=0, lt=1)] = 0.15
    pseudo_tokens: Annotated[int, knob("tokens that are masked alone for pseudo_perplexity, at most", ge=1)] = 2000
    batch_size: Annotated[int, knob("sequences in memory at once", neutral=True, ge=1)] = 16


class TestSet(Section):
    """A text that all models are judged on."""

    paths: Annotated[
        list[str],
        knob(
            "documents (.jsonl.zst, .jsonl), .txt files, folders of such, e.g. results/split/<corpus>/test",
            min_length=1,
        ),
    ]


class Export(Section):
    """What the export stage is told."""

    name: Annotated[str, knob("name of the model, for its card")]
    repo_id: Annotated[str, knob("repository that it goes to, for the code in its card")] = ""
    generation: Annotated[Generation, knob("defaults of generate()")] = Generation()
    license: Annotated[str, knob("SPDX name of a licence for the weights; empty: that of the training text")] = ""
    onnx: Annotated[bool, knob("make model.onnx too")] = False
    data: Annotated[
        list[dict[str, str]], knob("name, license, attribution and Hub data set of each corpus, for the card")
    ] = []
    configuration: Annotated[
        dict[str, Any], knob("the configuration that makes this model again, as of config.yaml")
    ] = {}


class Pin(Section):
    """Older results to go on using."""

    tokenizer: Annotated[str | None, knob("dump date of the tokenizers to use", pattern=DATE)] = None


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
    test_sets: dict[Annotated[str, Field(pattern=NAME)], TestSet] = {}

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
        """Refuse names of tokenizers and corpora that no entry has, and entries that would share their paths."""
        for name in self.corpora:
            if name != (dated := self.corpus_id(name)) and dated in self.corpora:
                raise WrongName(
                    f"corpora.{dated} has the name in paths of corpora.{name}; rename one", ("corpora", dated)
                )
        for name, tokenizer in self.tokenizers.items():
            if len(set(tokenizer.corpora)) < len(tokenizer.corpora):
                at = ("tokenizers", name, "corpora")
                raise WrongName(f"{'.'.join(at)} names a corpus twice; to weigh it use {{name: share}}", at)
            for corpus in tokenizer.corpora:
                _one_of(corpus, self.corpora, ("tokenizers", name, "corpora"))
        for name, model in self.models.items():
            _one_of(model.tokenizer, self.tokenizers, ("models", name, "tokenizer"))
            for corpus in model.corpora:
                _one_of(corpus, self.corpora, ("models", name, "corpora"))
        homes: dict[str, str] = {}
        for name, model in self.models.items():
            if model.publish and (other := homes.setdefault(model.publish.repo_id.lower(), name)) != name:
                at = ("models", name, "publish", "repo_id")
                raise WrongName(f"{'.'.join(at)} is that of models.{other} too; each model needs its own", at)
        sides = {self.side_id(corpus, side): corpus for side in ("test", "valid") for corpus in self.corpora}
        for name in self.test_sets:
            if name in sides:
                raise WrongName(
                    f"test_sets.{name} has the name of a side of corpora.{sides[name]}; rename it", ("test_sets", name)
                )
        return self

    def corpus_id(self, corpus: str) -> str:
        """Name of a corpus in paths: dated if it comes from a dump."""
        return f"{corpus}-{self.dump_date}" if isinstance(self.corpora[corpus], MediaWiki) else corpus

    def side_id(self, corpus: str, side: str) -> str:
        """Name of a side of a corpus as a test set: the corpus's own for test."""
        return self.corpus_id(corpus) if side == "test" else f"{self.corpus_id(corpus)}-{side}"

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
        entry = self.models[model]
        data = []
        for name in entry.corpora:
            corpus = self.corpora[name]
            told = {"name": self.corpus_id(name), "license": corpus.license, "attribution": corpus.attribution}
            data.append(told | ({"dataset": corpus.dataset} if corpus.dataset else {}))
        own = {name: getattr(entry, name) for name in ("generation", "license", "onnx")}
        own["repo_id"] = entry.publish.repo_id if entry.publish else ""
        return Export(name=self.model_id(model), data=data, configuration=self.configuration(model), **own)

    def first_model(self, model: str) -> str | None:
        """The model of this configuration that one starts from, None if it starts otherwise."""
        made = {
            f"results/{stage}/{self.model_id(name)}": name for stage in ("pretrain", "export") for name in self.models
        }
        folder = self.models[model].init_model
        return made.get(os.path.relpath(folder)) if folder else None

    @property
    def pinned(self) -> bool:
        """Whether the tokenizers are of another date, and so not made here."""
        return self.pin.tokenizer not in (None, self.dump_date)

    def configuration(self, model: str) -> dict[str, Any]:
        """The knobs that one model depends on, as a configuration of its own; without those that are neutral."""
        models = [model]
        while (first := self.first_model(models[-1])) and first not in models:
            models.append(first)  # of the same tokenizer
        name = self.models[model].tokenizer
        tokenizer, names = self.tokenizers[name], list(self.corpora)  # a corpus is compared with those before it
        read = [*tokenizer.corpora, *(corpus for one in models for corpus in self.models[one].corpora)]
        made = settings(tokenizer)
        if tokenizer.model or self.pinned:  # nothing of how it is trained
            made = {key: made[key] for key in ("corpora", "model", "sample_mb", "seed")}
        stages = ("pin", "extract", "segment", "filter", "dedup", "split", "evaluate")
        return {
            "dump_date": self.dump_date,
            "corpora": {corpus: settings(self.corpora[corpus]) for corpus in names[: 1 + max(map(names.index, read))]},
            **{stage: settings(getattr(self, stage)) for stage in stages},
            "tokenizers": {name: made},
            "models": {one: _of_model(self.models[one]) for one in models},
            "test_sets": {test_set: settings(entry) for test_set, entry in self.test_sets.items()},
        }


def _of_model(entry: Model) -> dict[str, Any]:
    """The knobs of a model, but where it goes; with a batch per device, which is neutral, but has to divide."""
    usual = Model.model_fields["per_device_train_batch_size"].default
    made = {key: value for key, value in settings(entry).items() if key != "publish"}
    return made | {"per_device_train_batch_size": math.gcd(entry.global_batch_size, usual)}


class WrongName(ValueError):
    """A name that no entry has, or that another has; `loc` is where it was given."""

    def __init__(self, message: str, loc: tuple[str, ...]) -> None:
        super().__init__(message)
        self.loc = loc


def _one_of(name: str, known: Mapping[str, Any], loc: tuple[str, ...]) -> None:
    if name not in known:
        verb = "has" if loc[-1] == "corpora" else "is"
        choice = ", ".join(known) or "(none)"
        raise WrongName(f"{'.'.join(loc)} {verb} {name!r}, which is not one of: {choice}", loc)
