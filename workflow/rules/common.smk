"""What the rules share: the validated configuration, names and paths made from it."""

import glob
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
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
from jalm.config import SIDES, UnknownDate
from jalm.knobs import ConfigError, flags
from jalm.configfile import load, repeated_keys
from jalm.provenance import MISSING, code, dictionary, recipe, revision


def config_sources():
    """Name to content of all that the configuration was merged from, the later on top."""
    files = {"config.yaml": Path(workflow.basedir, "config.yaml")}
    files |= {os.path.relpath(file): Path(file) for file in workflow.config_settings.configfiles}
    if repeated := [line for name, file in files.items() for line in repeated_keys(file)]:
        raise ConfigError("\n".join(repeated))
    sources = {name: load_configfile(file) for name, file in files.items()}
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
    wanted = [f"results/train_tokenizer/{name}/{file}" for file in ("spm.model", "tokenizer.json", "sample.json")]
    lacking = [path for path in wanted if not Path(path).is_file()]
    if lacking and cfg.pinned:
        raise WorkflowError(
            f"pin.tokenizer is {cfg.pin.tokenizer!r}, but there is no {lacking[0]}; "
            f"make it with --config dump_date={cfg.pin.tokenizer}, or pin another date"
        )

for name, entry in cfg.corpora.items():
    for path in getattr(entry, "paths", []):
        if not Path(path).exists():
            raise WorkflowError(f"corpora.{name}.paths has {path!r}, which is not there (seen from {Path.cwd()})")

for name, entry in cfg.tokenizers.items():
    if entry.model and not Path(entry.model).is_file():
        raise WorkflowError(f"tokenizers.{name}.model is {entry.model!r}, which is no file (seen from {Path.cwd()})")
if cfg.extract.templates and not Path(cfg.extract.templates).is_file():
    raise WorkflowError(f"extract.templates is {cfg.extract.templates!r}, which is no file (seen from {Path.cwd()})")

TEXT_FILES = (".txt", ".jsonl", ".jsonl.zst")


def files_in(folder):
    """Files of documents in a folder, its folders too."""
    return sorted(str(path) for path in Path(folder).rglob("*") if path.name.endswith(TEXT_FILES))


# test sets, and where each is from: a side of a corpus, or paths
SIDE_SETS = {cfg.side_id(name, side): (cfg.corpus_id(name), side) for name in cfg.corpora for side in ("test", "valid")}
SPLIT = {f"results/split/{corpus}/{side}": corpus for corpus in CORPORA for side in SIDES}  # made here
for name, entry in cfg.test_sets.items():
    for path in entry.paths:
        said = f"test_sets.{name}.paths has {path!r}"
        if os.path.relpath(path) in SPLIT:
            continue
        if not Path(path).exists():
            raise WorkflowError(f"{said}, which is not there (seen from {Path.cwd()})")
        if not (files_in(path) if Path(path).is_dir() else path.endswith(TEXT_FILES)):
            raise WorkflowError(
                f"{said}, which {'has' if Path(path).is_dir() else 'is'} no {', '.join(TEXT_FILES)} file"
            )


def first_model(model):
    """The model of this configuration that one starts from, None if it starts otherwise."""
    first = cfg.first_model(MODEL_NAMES[model])
    return cfg.model_id(first) if first else None


def first_files(folder):
    """Weights in a folder that a model starts from; none in a name on the Hub."""
    return sorted(map(str, Path(folder).glob("*.safetensors"))) if folder else []


def model_mistakes(name, entry):
    """What is wrong with a model that would show only after all stages before its training."""
    if entry.whole_word_mask and not cfg.segment.words:
        yield f"models.{name}.whole_word_mask is true, which needs the words of its corpora; set segment: {{words: true}}"
    said, chain = f"models.{name}.init_model is {entry.init_model!r}", [cfg.model_id(name)]
    while (first := first_model(chain[-1])) and first not in chain:
        chain.append(first)
    if first:
        yield f"{said}: no model can start from itself ({' from '.join([*chain, first])})"
    elif chain[1:]:
        if (other := MODELS[chain[1]].tokenizer) != entry.tokenizer:
            yield f"{said}, whose tokenizer is {other!r}, and models.{name}.tokenizer {entry.tokenizer!r}; use one for both"
    elif entry.init_model and not first_files(entry.init_model):
        on_hub = re.fullmatch(r"\w[\w.-]*/[\w.-]+(@\S+)?", entry.init_model, re.ASCII)
        if not on_hub or Path(Path(entry.init_model).parts[0]).exists():
            yield f"{said}, which is no folder with a model.safetensors (seen from {Path.cwd()}) and no OWNER/NAME on the Hub"


if mistakes := [line for name, entry in cfg.models.items() for line in model_mistakes(name, entry)]:
    raise WorkflowError("\n".join(mistakes))


def one_of(names):
    """A pattern that matches these names only, so that nothing of another date is ever made again."""
    return "|".join(map(re.escape, names)) or "(?!)"


WIKIS = one_of(name for name, entry in CORPORA.items() if isinstance(entry, MediaWiki))
TEXTS = one_of(name for name, entry in CORPORA.items() if not isinstance(entry, MediaWiki))
TRAINED = one_of([] if cfg.pinned else TOKENIZERS)


wildcard_constraints:
    corpus=one_of(CORPORA),
    tokenizer=one_of(TOKENIZERS),
    model=one_of(MODELS),
    test_set=one_of([*SIDE_SETS, *cfg.test_sets]),
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


def earlier_corpora(corpus):
    """The corpora that one is compared with: those before it; of a dump for a dump only, or a date would change texts."""
    names = list(CORPORA)
    earlier = names[: names.index(corpus)]
    return [name for name in earlier if intake(corpus) == "extract" or intake(name) == "import_text"]


def earlier_signatures(wildcards):
    """Signatures of the corpora that one is compared with."""
    pattern = "results/filter/{corpus}/signatures/{part}.jsonl.zst"
    return [path for name in earlier_corpora(wildcards.corpus) for path in of_parts(pattern, name)]


def earlier_drops(wildcards):
    """What was dropped from the corpora that one is compared with."""
    return expand("results/dedup/{corpus}/drop.jsonl.zst", corpus=earlier_corpora(wildcards.corpus))


def split_counts(wildcards):
    """Counts of the parts of a corpus in split."""
    return of_parts("results/split/{corpus}/counts/{part}.json", wildcards.corpus)


def tokenizer_documents(side):
    """Input function: one side of the corpora of a tokenizer."""

    def files(wildcards):
        corpora = map(cfg.corpus_id, TOKENIZERS[wildcards.tokenizer].corpora)
        pattern = f"results/split/{{corpus}}/{side}/{{part}}.jsonl.zst"
        return [path for corpus in corpora for path in of_parts(pattern, corpus)]

    return files


def own_model(wildcards):
    """A user's own SentencePiece model, if the tokenizer is one."""
    return list(filter(None, [TOKENIZERS[wildcards.tokenizer].model]))


def tokenizer_summaries(wildcards):
    """Summaries of the corpora of a tokenizer: they exist only when no side is empty."""
    return [f"results/split/{cfg.corpus_id(name)}/summary.json" for name in TOKENIZERS[wildcards.tokenizer].corpora]


def token_files(side):
    """Input function: token shards of one side of a corpus."""

    def files(wildcards):
        pattern = f"results/shard/{wildcards.tokenizer}/{{corpus}}/{side}/{{part}}.bin"
        return of_parts(pattern, wildcards.corpus)

    return files


def token_lengths(wildcards):
    """What lies beside the token shards of a corpus: lengths of documents and sentences, where words begin."""
    pattern = f"results/shard/{wildcards.tokenizer}/{{corpus}}"
    files = [f"{pattern}/{side}/{{part}}.{kind}" for side in SIDES for kind in ("index", "sentences", "words")]
    return of_parts(files, wildcards.corpus)


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
    """Input function: the shards behind `model_manifests`, and where words begin if the model asks for it."""

    def shards(wildcards):
        entry = MODELS[wildcards.model]
        kinds = ["bin", "words"] if entry.whole_word_mask else ["bin"]
        pattern = f"results/shard/{model_tokenizer(wildcards)}/{{corpus}}/{side}/{{part}}"
        files = [f"{pattern}.{kind}" for kind in kinds]
        return [path for name in map(cfg.corpus_id, entry.corpora) for path in of_parts(files, name)]

    return shards


def first_weights(wildcards):
    """What a model starts from: the folder of another model of this configuration, which is made first, or weights."""
    folder = MODELS[wildcards.model].init_model
    return os.path.relpath(folder) if first_model(wildcards.model) else first_files(folder)


def test_files(wildcards):
    """What a test set is read from: shards in the tokens of a model and the documents behind them, or files."""
    if entry := cfg.test_sets.get(wildcards.test_set):
        return {"text": [file for path in entry.paths for file in text_files(path)]}
    corpus, side = SIDE_SETS[wildcards.test_set]
    folder = f"results/shard/{model_tokenizer(wildcards)}/{corpus}/{side}"
    return {
        "manifest": f"{folder}/manifest.json",
        "shards": ancient(of_parts(f"{folder}/{{part}}.bin", corpus)),
        "documents": ancient(of_parts(f"results/split/{corpus}/{side}/{{part}}.jsonl.zst", corpus)),
    }


def text_files(path):
    """Files of a path of a test set: Snakemake does not look into a folder that is an input."""
    if (folder := os.path.relpath(path)) in SPLIT:
        return of_parts(f"{folder}/{{part}}.jsonl.zst", SPLIT[folder])
    return files_in(path) if Path(path).is_dir() else [path]


def of_tokenizer(name):
    """Input function: a file of a model's tokenizer."""

    def file(wildcards):
        return f"results/train_tokenizer/{model_tokenizer(wildcards)}/{name}"

    return file


def test_documents(wildcards):
    """Documents of the test side of a model's first corpus."""
    first = cfg.corpus_id(next(iter(MODELS[wildcards.model].corpora)))
    return of_parts("results/split/{corpus}/test/{part}.jsonl.zst", first)


def model_evaluations(wildcards):
    """Evaluations of a model on the test side of each of its corpora, and on all other texts."""
    names = [*map(cfg.corpus_id, MODELS[wildcards.model].corpora), *cfg.test_sets]
    return [f"results/evaluate/{wildcards.model}/{name}.json" for name in names]


def model_accounts(wildcards):
    """Accounts of a model's corpora."""
    names = list(map(cfg.corpus_id, MODELS[wildcards.model].corpora))
    return expand("results/split/{corpus}/account.json", corpus=names)


def model_dumps(wildcards):
    """What was downloaded for those of a model's corpora that come from a dump."""
    names = map(cfg.corpus_id, MODELS[wildcards.model].corpora)
    return [f"resources/{name}/manifest.json" for name in names if isinstance(CORPORA[name], MediaWiki)]


def published_folder(wildcards):
    """The Hugging Face folder of a model that has a repository to go to."""
    if not MODELS[wildcards.model].publish:
        name = MODEL_NAMES[wildcards.model]
        raise WorkflowError(f"models.{name}.publish is missing; set publish: {{repo_id: YOU/{name}}} to publish it")
    return f"results/export/{wildcards.model}"


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


def earlier(stage, name, dated):
    """Option that names the newest results of a stage with an earlier date; none if there are none."""
    pattern = re.compile(rf"{re.escape(name)}-[0-9]{{8}}")
    folders = [path for path in Path("results", stage).glob("*") if pattern.fullmatch(path.name) and path.name < dated]
    return [f"--earlier {max(folders)}"] if folders else []


def extract_options(wildcards):
    """The code, and the newest documents of an earlier date, so that those of unchanged articles are taken over."""
    before = earlier("extract", CORPUS_NAMES[wildcards.corpus], wildcards.corpus)
    return " ".join([flags(cfg.extract, neutral=True), f"--code '{code('extract')}'", *before])


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


def hojichar(wildcards):
    """Version of HojiChar where its filters are asked for: its word lists are part of it."""
    return version("hojichar") if cfg.filtering(CORPUS_NAMES[wildcards.corpus]).hojichar else ""


def train_tokenizer_flags(wildcards):
    """Knobs of a tokenizer."""
    return flags(TOKENIZERS[wildcards.tokenizer], TrainTokenizer)


def tokenizer_options(side):
    """Function of a tokenizer: options that say which files of `tokenizer_documents` belong to which corpus."""

    def options(wildcards):
        words = []
        for name in TOKENIZERS[wildcards.tokenizer].corpora:
            files = of_parts(f"results/split/{{corpus}}/{side}/{{part}}.jsonl.zst", cfg.corpus_id(name))
            words += ["--documents", name, *files]
        return shlex.join(words)

    return options


def tokenizer_dictionary(wildcards):
    """What is in the dictionary that a tokenizer's training text is cut with, if it is."""
    return dictionary(cfg.segment.dictionary) if TOKENIZERS[wildcards.tokenizer].pretokenizer == "unidic" else ""


def pretrain_flags(wildcards):
    """Knobs of a model that decide what is learnt."""
    return flags(MODELS[wildcards.model], Pretrain)


def pretrain_options(wildcards):
    """Knobs of a model that decide how it is trained, not what is learnt; and the code, for the record."""
    return f"{flags(MODELS[wildcards.model], Pretrain, neutral=True)} --code '{code('pretrain')}' --revision '{revision()}'"


def test_options(wildcards):
    """Options that say what a model is judged on.

    Of a folder made here, these are its parts, since it may have more of an earlier number; in any other, a .txt is one document.
    """
    if entry := cfg.test_sets.get(wildcards.test_set):
        found = (text_files(path) if os.path.relpath(path) in SPLIT else [path] for path in entry.paths)
        return shlex.join(["--text", *(file for files in found for file in files)])
    files = test_files(wildcards)
    return shlex.join(["--test", files["manifest"], "--documents", *files["documents"]])


def export_flags(wildcards):
    """What a model's folder says beside the model."""
    return flags(cfg.export(MODEL_NAMES[wildcards.model]))


def export_options(wildcards):
    """What a model's folder says of the code and the dictionary, and the folder that it takes the place of."""
    wiki = any(isinstance(cfg.corpora[name], MediaWiki) for name in MODELS[wildcards.model].corpora)
    stages = ["import_text", "segment", "filter", "dedup", "split", "train_tokenizer", "shard", "evaluate", "export"]
    stages += ["download", "extract"] if wiki else []
    modules = sorted({module for stage in stages for module in code(stage).split()})
    told = f"--code '{' '.join(modules)}' --revision '{revision()}' --dictionary '{dictionary(cfg.segment.dictionary)}'"
    if cfg.extract.templates and wiki:
        told += f" --templates {shlex.quote(cfg.extract.templates)}"
    return " ".join([told, *earlier("export", MODEL_NAMES[wildcards.model], wildcards.model)])


def publish_flags(wildcards):
    """Where a model is published."""
    return flags(MODELS[wildcards.model].publish)


def publish_options(wildcards):
    """What may be replaced there."""
    return flags(MODELS[wildcards.model].publish, neutral=True)


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
        if isinstance(entry, MediaWiki):
            files.append(f"resources/{corpus}/manifest.json")
        files += of_parts([f"results/{intake(corpus)}/{{corpus}}/{{part}}.jsonl.zst", *per_part], corpus)
        files += [f"results/dedup/{corpus}/drop.jsonl.zst", f"results/split/{corpus}/summary.json"]
        files += [f"results/split/{corpus}/account.json", f"results/split/{corpus}/account.md"]
    return files


def data_files():
    """Every tokenizer, and the shards of every corpus in the tokenizers that a model or they themselves read it with."""
    pairs = {(name, corpus) for name, entry in cfg.tokenizers.items() for corpus in entry.corpora}
    pairs |= {(entry.tokenizer, corpus) for entry in cfg.models.values() for corpus in entry.corpora}
    files = [f"results/train_tokenizer/{tokenizer}/spm.model" for tokenizer in TOKENIZERS]
    for tokenizer in [] if cfg.pinned else TOKENIZERS:
        files += [f"results/train_tokenizer/{tokenizer}/report.json", f"results/train_tokenizer/{tokenizer}/report.md"]
    for tokenizer, corpus in sorted(pairs):
        tokenizer, corpus = cfg.tokenizer_id(tokenizer), cfg.corpus_id(corpus)
        files += of_parts(f"results/shard/{tokenizer}/{{corpus}}/train/{{part}}.bin", corpus)
        files.append(f"results/shard/{tokenizer}/{corpus}/train/manifest.json")
    return files


def model_files():
    """Every model, its evaluations and its Hugging Face folder."""
    trained = [f"results/pretrain/{model}" for model in MODELS]
    judged = []
    for model, entry in MODELS.items():
        sides = [cfg.side_id(corpus, side) for corpus in entry.corpora for side in ("test", "valid")]
        judged += [f"results/evaluate/{model}/{name}.json" for name in [*sides, *cfg.test_sets]]
    return trained + judged + [f"results/export/{model}" for model in MODELS]


def report_tokenizers():
    """Reports of the tokenizers; a pinned one's if it is there."""
    files = [f"results/train_tokenizer/{tokenizer}/report.json" for tokenizer in TOKENIZERS]
    return [path for path in files if not cfg.pinned or Path(path).is_file()]


def report_evaluations():
    """Evaluations of every model, and those there are of models of earlier dates on the same test sets."""
    here = [path for path in model_files() if path.startswith("results/evaluate/")]
    earlier = []
    for file in sorted({Path(path).name for path in here}):
        for path in sorted(Path("results/evaluate").glob(f"*/{glob.escape(file)}")):
            dated = re.fullmatch(r".+-([0-9]{8})", path.parent.name)
            if dated and dated[1] < cfg.dump_date:
                earlier.append(str(path))
    return here + earlier


def report_files():
    """The pages of the report."""
    pages = ["overview", "corpora", "tokenizers", "training", "evaluation", "samples", "resources"]
    return [f"results/report/{cfg.dump_date}/{page}.html" for page in pages]
