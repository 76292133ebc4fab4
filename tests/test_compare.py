import json

import pytest

from jalm.commands import compare

TEXT = {"documents": 1234, "characters": 1000000, "bytes": 2900000}
GPT2 = {
    "model": "gpt2-small-20261101",
    "test_set": "jawiki-20261101",
    "tokenizer": "unigram-32k-20261101",
    "perplexity": 23.456,
    "accuracy": 0.4321,
    "bits_per_character": 3.14159,
    "sliding": {"perplexity": 21.5, "bits_per_character": 3.05},
    "by_document": {
        "bits_per_character": 3.1,
        "bits_per_byte": 1.06897,
        "bits_per_character_interval": [3.0512, 3.1499],
    },
    "unknown_share": 0.0002,
    "tokens": 1234567,
    **TEXT,
}
OTHER = {
    "model": "rinna",
    "test_set": "jawiki-20261101",
    "perplexity": 19.0,
    "accuracy": 0.5,
    "bits_per_character": 3.3,
    "tokens": 700000,
    **TEXT,
}
BERT = {
    "model": "bert-base-20261101",
    "test_set": "jawiki-20261101",
    "tokenizer": "unigram-32k-20261101",
    "perplexity": 4.5,
    "accuracy": 0.6,
    "pseudo_perplexity": 5.25,
    "nsp_loss": 0.1234,
    "nsp_accuracy": 0.95,
    "tokens": 98765,
    **TEXT,
}


def write(folder, *records):
    for number, record in enumerate(records):
        (folder / f"{number}.json").write_text(json.dumps(record), encoding="utf-8")
    return [str(folder / f"{number}.json") for number in range(len(records))]


def test_models_of_one_text_are_a_table_the_best_first(tmp_path, capsys):
    compare.main(write(tmp_path, OTHER, BERT, GPT2))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 120
    (title, head, first, second, _), (_, masked_head, third) = (part.splitlines() for part in printed.split("\n\n"))
    assert title == "test set jawiki-20261101: 1,234 documents, 1,000,000 characters, 2,900,000 bytes"
    assert head.split() == ["model", "tokenizer", "bits/char", "95", "%", "BPB", "blocks", "PPL", "sliding", "<unk>", "tokens"]  # fmt: skip
    assert first.split() == ["gpt2-small-20261101", "unigram-32k-20261101", "3.100", "3.051-3.150", "1.069", "3.142", "23.46", "21.50", "0.02%", "1,234,567"]  # fmt: skip
    assert second.split() == ["rinna", "-", "-", "-", "-", "3.300", "19.00", "-", "-", "700,000"]
    assert masked_head.split() == ["model", "tokenizer", "masked", "PPL", "accuracy", "pseudo-PPL", "NSP", "loss", "NSP", "accuracy", "tokens"]  # fmt: skip
    assert third.split() == ["bert-base-20261101", "unigram-32k-20261101", "4.50", "60.0%", "5.25", "0.123", "95.0%", "98,765"]  # fmt: skip


def test_bits_of_blocks_are_not_ranked_among_those_of_documents(tmp_path, capsys):
    other = OTHER | {"bits_per_character": 2.0}
    compare.main(write(tmp_path, other, GPT2, other | {"model": "ours", "perplexity": 18.0}, BERT))
    _, _, *rows, said = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [row.split()[0] for row in rows] == ["gpt2-small-20261101", "ours", "rinna"]
    assert said == "Without bits/char, so behind the others, by their blocks: ours, rinna."
    compare.main(write(tmp_path, other, other | {"model": "ours"}))
    assert "behind" not in capsys.readouterr().out


def test_unknown_tokens_which_make_bits_look_less_are_told(tmp_path, capsys):
    compare.main(write(tmp_path, GPT2, GPT2 | {"model": "bert-vocabulary", "unknown_share": 0.0123}))
    _, _, first, _, said = capsys.readouterr().out.splitlines()
    assert "1.23%" in first
    assert said == "Over 0.1 % of the tokens are unknown, so the bits are not of all characters: bert-vocabulary."


def test_names_as_long_as_published_ones_fit_a_line(tmp_path, capsys):
    compare.main(write(tmp_path, GPT2 | {"model": "japanese-gpt2-xsmall-20261101", "tokens": 1234567890}))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


def test_other_test_sets_are_tables_of_their_own(tmp_path, capsys):
    compare.main(write(tmp_path, GPT2, OTHER | {"test_set": "京都"}))
    first, second, said = capsys.readouterr().out.split("\n\n")
    assert [part.split(":")[0] for part in (first, second)] == ["test set jawiki-20261101", "test set 京都"]
    assert said == "Test sets differ: compare within a table only.\n"


def test_other_texts_of_one_name_are_not_compared(tmp_path, capsys):
    compare.main(write(tmp_path, GPT2, OTHER | {"characters": 999999}))
    *tables, said = capsys.readouterr().out.split("\n\n")
    assert len(tables) == 2
    assert said == "Not the same text under one name: jawiki-20261101. Compare within a table only.\n"


def test_the_evaluations_in_an_export_can_be_compared(tmp_path, capsys):
    (tmp_path / "evaluation.json").write_text(json.dumps([GPT2, BERT]), encoding="utf-8")
    compare.main([str(tmp_path / "evaluation.json")])
    made = capsys.readouterr().out
    assert GPT2["model"] in made
    assert BERT["model"] in made


def test_records_can_be_printed_as_json(tmp_path, capsys):
    compare.main([*write(tmp_path, OTHER, BERT, REPORT, GPT2), "--json"])
    assert json.loads(capsys.readouterr().out) == {"evaluations": [GPT2, OTHER, BERT], "tokenizers": [REPORT]}


def test_what_evaluate_writes_can_be_compared(tiny, capsys):
    compare.main([str(tiny.evaluation("gpt2")), str(tiny.evaluation("roberta"))])
    causal, masked = (part.splitlines()[-1].split() for part in capsys.readouterr().out.split("\n\n"))
    record = json.loads(tiny.evaluation("gpt2").read_text(encoding="utf-8"))
    assert f"{record['by_document']['bits_per_character']:.3f}" in causal
    assert f"{json.loads(tiny.evaluation('roberta').read_text())['pseudo_perplexity']:.2f}" in masked


REPORT = {
    "tokenizer": "unigram-8k-20261101",
    "vocab_size": 8000,
    "pieces": {"unused": 1234},
    "valid": {
        "jawiki": {
            "tokens": 20000,
            "unknown": 0,
            "byte_pieces": 30,
            "characters_per_token": 1.98765,
            "bytes_per_token": 5.5,
        },
        "歌": {"tokens": 100, "unknown": 1, "byte_pieces": 0, "characters_per_token": 1.5, "bytes_per_token": 4.5},
    },
}


def test_each_corpus_of_a_tokenizer_is_a_line(tmp_path, capsys):
    compare.main(write(tmp_path, REPORT))
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["tokenizer", "valid", "side", "of", "pieces", "unused", "chars/token", "bytes/token", "unknown", "bytes", "tokens"]  # fmt: skip
    assert first.split() == ["unigram-8k-20261101", "jawiki", "8,000", "1,234", "1.988", "5.500", "0.000%", "0.150%", "20,000"]  # fmt: skip
    assert second.split() == ["unigram-8k-20261101", "歌", "8,000", "1,234", "1.500", "4.500", "1.000%", "0.000%", "100"]  # fmt: skip


def test_evaluations_and_reports_are_tables_of_their_own(tmp_path, capsys):
    compare.main(write(tmp_path, REPORT, GPT2))
    models, tokenizers = capsys.readouterr().out.split("\n\n")
    assert models.startswith("test set ")
    assert tokenizers.startswith("tokenizer ")


def test_any_other_file_is_named(tmp_path):
    with pytest.raises(compare.NoEvaluation, match=r"0\.json is no evaluation and no report of a tokenizer"):
        compare.main(write(tmp_path, {"tokenizer": "a"}))
