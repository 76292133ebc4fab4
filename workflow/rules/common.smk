"""What the rules share: the validated configuration, names and paths made from it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError

# the package, for this process and for the rules' own, also in an environment that was not activated
PACKAGE = Path(workflow.basedir, "workflow").resolve()
sys.path.insert(0, str(PACKAGE))
os.environ.update(
    PYTHONPATH=os.pathsep.join(filter(None, [str(PACKAGE), os.getenv("PYTHONPATH")])),
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", "")]),
)
# in a conda environment Snakemake takes PYTHONPATH away, lest other packages shadow those of the environment
search = f"{shlex.quote(str(PACKAGE))}${{PYTHONPATH:+:$PYTHONPATH}}".replace("{", "{{").replace("}", "}}")
shell.prefix(f"set -euo pipefail; export PYTHONPATH={search}; ")

from jalm.config import ImportText, MediaWiki, NoKnobs, Pretrain, TrainTokenizer
from jalm.config import SIDES, ConfigError, UnknownDate, flags, load
from jalm.provenance import code, dictionary, recipe


def config_sources():
    """Name to content of all that the configuration was merged from, the later on top."""
    sources = {"config.yaml": load_configfile(f"{workflow.basedir}/config.yaml")}
    sources |= {os.path.relpath(file): load_configfile(file) for file in workflow.config_settings.configfiles}
    return {**sources, "--config": workflow.config_settings.config}


def offered_dates():
    """What the mirrors of the configured wikis have to offer, for the message that a date is none."""
    lines = []
    for name, entry in config["corpora"].items():
        if entry and entry.get("source") == "mediawiki":
            told = {f"--{key}": entry.get(key) for key in ("wiki", "layout", "mirror")}
            told["--contact"] = config.get("contact")
            options = [word for option, value in told.items() if value for word in (option, str(value))]
            command = [sys.executable, "-m", "jalm", "download", "--list", *options]
            listed = subprocess.run(command, capture_output=True, text=True)
            lines.append(f"{name}: {listed.stdout.strip() or listed.stderr.strip()}".replace("\n", ", "))
    return "\n".join(lines)


try:
    cfg = load(config, config_sources())
except UnknownDate as error:
    raise WorkflowError(f"{error}\nThe mirror has {offered_dates()}") from None
except ConfigError as error:
    raise WorkflowError(str(error)) from None

CORPUS_NAMES = {cfg.corpus_id(name): name for name in cfg.corpora}
MODEL_NAMES = {cfg.model_id(name): name for name in cfg.models}
CORPORA = {cfg.corpus_id(name): entry for name, entry in cfg.corpora.items()}
TOKENIZERS = {cfg.tokenizer_id(name): entry for name, entry in cfg.tokenizers.items()}
MODELS = {cfg.model_id(name): entry for name, entry in cfg.models.items()}

for name in TOKENIZERS:
    if not name.endswith(f"-{cfg.dump_date}") and not Path(f"results/train_tokenizer/{name}/spm.model").is_file():
        raise WorkflowError(
            f"pin.tokenizer is {cfg.pin.tokenizer!r}, but there is no results/train_tokenizer/{name}/spm.model; "
            f"make it with --config dump_date={cfg.pin.tokenizer}, or pin another date"
        )

for name, entry in cfg.corpora.items():
    for path in getattr(entry, "paths", []):
        if not Path(path).exists():
            raise WorkflowError(f"corpora.{name}.paths has {path!r}, which is not there (seen from {Path.cwd()})")


def one_of(names):
    """A pattern that matches these names only, so that nothing of another date is ever made again."""
    return "|".join(map(re.escape, names)) or "(?!)"


WIKIS = one_of(name for name, entry in CORPORA.items() if isinstance(entry, MediaWiki))
TEXTS = one_of(name for name, entry in CORPORA.items() if not isinstance(entry, MediaWiki))
TRAINED = one_of(name for name in TOKENIZERS if name.endswith(f"-{cfg.dump_date}"))  # not the pinned ones


wildcard_constraints:
    corpus=one_of(CORPORA),
    tokenizer=one_of(TOKENIZERS),
    model=one_of(MODELS),
    part=r"\d{3}",


# ---- what the rules read

# tables of templates: ours, and the user's; relative, so that a clone that moves with its results makes nothing stale
TEMPLATES = [os.path.relpath(PACKAGE / "jalm/formats/templates.yaml"), *filter(None, [cfg.extract.templates])]


def parts(corpus):
    """Names of the parts of a corpus."""
    return [f"{part:03d}" for part in range(CORPORA[corpus].parts)]


def of_parts(pattern, corpus):
    """Paths of all parts of a corpus, out of a pattern with {corpus} and {part}."""
    return expand(pattern, corpus=corpus, part=parts(corpus))


def intake(corpus):
    """Stage that a corpus comes in by: cleaned from a dump, or imported from local text."""
    return "extract" if isinstance(CORPORA[corpus], MediaWiki) else "import_text"


def raw_documents(wildcards):
    """Documents of one part as they come in."""
    return f"results/{intake(wildcards.corpus)}/{wildcards.corpus}/{wildcards.part}.jsonl.zst"


def intake_counts(wildcards):
    """Counts of the parts of a corpus as they came in."""
    return of_parts(f"results/{intake(wildcards.corpus)}/{{corpus}}/counts/{{part}}.json", wildcards.corpus)


def filter_counts(wildcards):
    """Counts of the parts of a corpus in filter."""
    return of_parts("results/filter/{corpus}/counts/{part}.json", wildcards.corpus)


def signatures(wildcards):
    """Signatures of a corpus."""
    return of_parts("results/filter/{corpus}/signatures/{part}.jsonl.zst", wildcards.corpus)


def earlier_signatures(wildcards):
    """Signatures of the corpora before one in the configuration; of a dump for a dump only, or a date would change texts."""
    names = list(CORPORA)
    earlier = names[: names.index(wildcards.corpus)]
    if not re.fullmatch(WIKIS, wildcards.corpus):
        earlier = [name for name in earlier if not re.fullmatch(WIKIS, name)]
    return [path for name in earlier for path in of_parts("results/filter/{corpus}/signatures/{part}.jsonl.zst", name)]


def split_counts(wildcards):
    """Counts of the parts of a corpus in split."""
    return of_parts("results/split/{corpus}/counts/{part}.json", wildcards.corpus)


def train_documents(wildcards):
    """Train side of the corpora of a tokenizer."""
    corpora = map(cfg.corpus_id, TOKENIZERS[wildcards.tokenizer].corpora)
    return [path for corpus in corpora for path in of_parts("results/split/{corpus}/train/{part}.jsonl.zst", corpus)]


def train_summaries(wildcards):
    """Summaries of the corpora of a tokenizer: they exist only when no side is empty."""
    return [f"results/split/{cfg.corpus_id(name)}/summary.json" for name in TOKENIZERS[wildcards.tokenizer].corpora]


def token_files(side):
    """Input function: token shards of one side of a corpus."""

    def files(wildcards):
        pattern = f"results/shard/{wildcards.tokenizer}/{{corpus}}/{side}/{{part}}.bin"
        return of_parts(pattern, wildcards.corpus)

    return files


def model_tokenizer(wildcards):
    """Name of the tokenizer of a model."""
    return cfg.tokenizer_id(MODELS[wildcards.model].tokenizer)


def model_manifests(side):
    """Input function: shard manifests of one side of a model's corpora, in the order of its `corpora`."""

    def manifests(wildcards):
        names = map(cfg.corpus_id, MODELS[wildcards.model].corpora)
        return [f"results/shard/{model_tokenizer(wildcards)}/{name}/{side}/manifest.json" for name in names]

    return manifests


def model_shards(side):
    """Input function: the shards behind `model_manifests`."""

    def shards(wildcards):
        names = map(cfg.corpus_id, MODELS[wildcards.model].corpora)
        pattern = f"results/shard/{model_tokenizer(wildcards)}/{{corpus}}/{side}/{{part}}.bin"
        return [path for name in names for path in of_parts(pattern, name)]

    return shards


def test_manifest(wildcards):
    """Manifest of a test set, in the tokens of a model."""
    return f"results/shard/{model_tokenizer(wildcards)}/{wildcards.corpus}/test/manifest.json"


def test_shards(wildcards):
    """The shards behind `test_manifest`."""
    pattern = f"results/shard/{model_tokenizer(wildcards)}/{{corpus}}/test/{{part}}.bin"
    return of_parts(pattern, wildcards.corpus)


def test_documents(wildcards):
    """Documents of the test side of a model's first corpus."""
    first = cfg.corpus_id(next(iter(MODELS[wildcards.model].corpora)))
    return of_parts("results/split/{corpus}/test/{part}.jsonl.zst", first)


def model_evaluations(wildcards):
    """Evaluations of a model on the test side of each of its corpora."""
    names = map(cfg.corpus_id, MODELS[wildcards.model].corpora)
    return [f"results/evaluate/{wildcards.model}/{name}.json" for name in names]


def spm_model(wildcards):
    """SentencePiece model of a model's tokenizer."""
    return f"results/train_tokenizer/{model_tokenizer(wildcards)}/spm.model"


def exported_tokenizer(wildcards):
    """The tokenizer.json of a model's tokenizer."""
    return f"results/train_tokenizer/{model_tokenizer(wildcards)}/tokenizer.json"


# ---- what the rules are told


def growing(amount, most=4):
    """Resource function: an amount of memory (MB) or time (minutes) that doubles with each attempt, to `most` times it."""

    def resource(wildcards, attempt):
        return amount * min(most, 2 ** (attempt - 1))

    return resource


def threads_given(wildcards, threads):
    """Resource `cpus_per_task`: as many as threads, unless a profile says otherwise (--cores caps threads only)."""
    return threads


def tokenizer_threads(wildcards):
    """Threads that a tokenizer is trained with: they are among its knobs."""
    return TOKENIZERS[wildcards.tokenizer].num_threads


def download_flags(wildcards):
    """Which dump of a corpus is wanted."""
    return flags(cfg.download(CORPUS_NAMES[wildcards.corpus]))


def download_options(wildcards):
    """Where and how a dump is asked for: nothing that changes it."""
    return flags(cfg.download(CORPUS_NAMES[wildcards.corpus]), neutral=True)


def extract_options(wildcards):
    """The code, and the newest documents of an earlier date, so that those of unchanged articles are taken over."""
    name = CORPUS_NAMES[wildcards.corpus]
    dated = re.compile(rf"{re.escape(name)}-[0-9]{{8}}")
    folders = [path for path in Path("results/extract").glob("*") if dated.fullmatch(path.name)]
    earlier = sorted(f"--earlier {path}" for path in folders if path.name < wildcards.corpus)
    return " ".join([flags(cfg.extract, neutral=True), f"--code '{code('extract')}'", *earlier[-1:]])


def part_flags(wildcards):
    """Which part of how many."""
    return f"--part {int(wildcards.part)} --parts {CORPORA[wildcards.corpus].parts}"


def import_files(wildcards):
    """Files that one part of a text corpus reads, of its folders too: Snakemake does not look into a folder that is an input."""
    part, parts = int(wildcards.part), CORPORA[wildcards.corpus].parts
    files = []
    for path in map(Path, CORPORA[wildcards.corpus].paths):
        files += sorted(path.rglob("*.txt"), key=os.fspath)[part::parts] if path.is_dir() else [path]
    return list(map(str, files))


def import_paths(wildcards):
    """Files and folders of a text corpus, as configured: ids are made from them."""
    return " ".join(map(shlex.quote, CORPORA[wildcards.corpus].paths))


def import_flags(wildcards):
    """Knobs of a text corpus."""
    return flags(CORPORA[wildcards.corpus], ImportText)


def filter_flags(wildcards):
    """Rules of a corpus, and how it is signed."""
    return flags(cfg.filtering(CORPUS_NAMES[wildcards.corpus]))


def train_tokenizer_flags(wildcards):
    """Knobs of a tokenizer."""
    return flags(TOKENIZERS[wildcards.tokenizer], TrainTokenizer)


def pretrain_flags(wildcards):
    """Knobs of a model that decide what is learnt."""
    return flags(MODELS[wildcards.model], Pretrain)


def pretrain_options(wildcards):
    """Knobs of a model that decide how it is trained, not what is learnt; and the code, for the record."""
    return f"{flags(MODELS[wildcards.model], Pretrain, neutral=True)} --code '{code('pretrain')}'"


def export_flags(wildcards):
    """What a model's folder says beside the model."""
    return flags(cfg.export(MODEL_NAMES[wildcards.model]))


# ---- targets: all that a stage makes, not its last results only, because Snakemake takes a missing file for needed no
# longer when what was made of it is there. So a stage that failed after a change is never passed over.


def corpus_files():
    """Documents of every corpus, after every stage."""
    per_part = [
        "results/segment/{corpus}/{part}.jsonl.zst",
        "results/filter/{corpus}/{part}.jsonl.zst",
        "results/split/{corpus}/counts/{part}.json",
    ]
    files = []
    for corpus, entry in CORPORA.items():
        first = "results/import_text/{corpus}/{part}.jsonl.zst"
        if isinstance(entry, MediaWiki):
            files.append(f"resources/{corpus}/manifest.json")
            first = "results/extract/{corpus}/{part}.jsonl.zst"
        files += of_parts([first, *per_part], corpus)
        files += [f"results/dedup/{corpus}/drop.jsonl.zst", f"results/split/{corpus}/summary.json"]
        files += [f"results/split/{corpus}/account.json", f"results/split/{corpus}/account.md"]
    return files


def data_files():
    """Every tokenizer, and the shards of every corpus in the tokenizers that a model or they themselves read it with."""
    pairs = {(name, corpus) for name, entry in cfg.tokenizers.items() for corpus in entry.corpora}
    pairs |= {(entry.tokenizer, corpus) for entry in cfg.models.values() for corpus in entry.corpora}
    files = [f"results/train_tokenizer/{tokenizer}/spm.model" for tokenizer in TOKENIZERS]
    for tokenizer, corpus in sorted(pairs):
        tokenizer, corpus = cfg.tokenizer_id(tokenizer), cfg.corpus_id(corpus)
        files += of_parts(f"results/shard/{tokenizer}/{{corpus}}/train/{{part}}.bin", corpus)
        files.append(f"results/shard/{tokenizer}/{corpus}/train/manifest.json")
    return files


def model_files():
    """Every model, its evaluations and its Hugging Face folder."""
    trained = [f"results/pretrain/{model}" for model in MODELS]
    judged = [
        f"results/evaluate/{model}/{cfg.corpus_id(corpus)}.json"
        for model, entry in MODELS.items()
        for corpus in entry.corpora
    ]
    return trained + judged + [f"results/export/{model}" for model in MODELS]
