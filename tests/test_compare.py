import json

from jalm.commands import compare

GPT2 = {
    "model": "gpt2-small-20261101",
    "test_set": "jawiki-20261101",
    "perplexity": 23.456,
    "accuracy": 0.4321,
    "predicted_tokens": 1234567,
    "bits_per_character": 3.14159,
}
ROBERTA = {
    "model": "roberta-base-20261101",
    "test_set": "試験",
    "perplexity": 4.5,
    "accuracy": 0.6,
    "predicted_tokens": 98765,
}


def write(folder, *records):
    for number, record in enumerate(records):
        (folder / f"{number}.json").write_text(json.dumps(record), encoding="utf-8")
    return [str(folder / f"{number}.json") for number in range(len(records))]


def test_each_evaluation_is_a_line_in_the_order_given(tmp_path, capsys):
    compare.main(write(tmp_path, ROBERTA, GPT2))
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "test", "set", "PPL", "bits/char", "accuracy", "tokens"]
    assert first.split() == ["roberta-base-20261101", "試験", "4.50", "-", "60.0%", "98,765"]
    assert second.split() == ["gpt2-small-20261101", "jawiki-20261101", "23.46", "3.142", "43.2%", "1,234,567"]


def test_what_evaluate_writes_can_be_compared(tiny, capsys):
    compare.main([str(tiny.evaluation("gpt2")), str(tiny.evaluation("roberta"))])
    _, causal, masked = capsys.readouterr().out.splitlines()
    record = json.loads(tiny.evaluation("gpt2").read_text(encoding="utf-8"))
    assert f"{record['bits_per_character']:.3f}" in causal.split()
    assert masked.split()[3] == "-"
