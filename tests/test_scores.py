import math

import numpy as np
import pytest
import torch
from tiny import model

from jalm.formats import pairs, scores
from jalm.formats.batches import Feed, Masking
from jalm.formats.ids import IGNORED
from jalm.formats.models import CLASSES
from jalm.formats.scores import Score, Sums
from jalm.formats.shards import Shards
from jalm.sizes import MASKED

PIECES = 400
BOS, EOS, CLS, SEP = 2, 3, 4, 5

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def rows_of_one_pair(monkeypatch):
    """For a BERT, a row of the stream is a pair whose second segment follows, or not: the seed decides."""

    def row(shards, start, length, rng, word_starts):
        tokens, place = shards.read(start, length), np.arange(length)
        follows = np.where(place == 0, rng.integers(2), IGNORED)
        return pairs.Row(
            np.where(place == 0, CLS, tokens), (place > 5).astype(int), np.zeros(length, dtype=int), follows
        )

    monkeypatch.setattr(pairs, "row", row)


def feed(architecture: str, block_size: int = 16, mlm_probability: float = 0.3) -> Feed:
    return Feed(architecture, block_size, PIECES, Masking(mlm_probability) if architecture in MASKED else None)


def documents(*lengths: int) -> np.ndarray:
    """A stream of documents with their marks."""
    bodies = [np.random.default_rng(length).integers(7, PIECES, length) for length in lengths]
    return np.concatenate([[BOS, *body, EOS] for body in bodies])


def same(score: Score, other: Score) -> None:
    for one, two in ((score.tokens, other.tokens), (score.pairs, other.pairs)):
        assert (one.count, one.correct) == (two.count, two.correct)
        assert one.nats == pytest.approx(two.nats, rel=1e-5)
    assert score.nats_at == pytest.approx(other.nats_at, rel=1e-4)
    assert (score.count_at == other.count_at).all()


def test_the_score_of_gpt2_is_the_sum_over_all_tokens(stream):
    tokens = documents(30, 1, 12, 0, 9)
    gpt2, nats, correct = model("gpt2", 16), 0.0, 0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 16):
            window = torch.from_numpy(tokens[start : start + 17])
            logits = gpt2(input_ids=window[None, :-1]).logits[0]
            nats -= sum(logits.log_softmax(1)[place, token].item() for place, token in enumerate(window[1:]))
            correct += int((logits.argmax(1) == window[1:]).sum())
    score = scores.score(gpt2, feed("gpt2"), Shards(stream(tokens[:20], tokens[20:])), 4)
    assert score.tokens.nats == pytest.approx(nats, rel=1e-5)
    assert (score.tokens.count, score.tokens.correct) == (len(tokens) - 1, correct)
    assert score.tokens.loss == score.tokens.nats / score.tokens.count
    assert score.pairs == Sums()
    assert math.isnan(score.pairs.loss)


@pytest.mark.parametrize("architecture", CLASSES)
def test_a_score_does_not_depend_on_the_batch_size(architecture, stream):
    shards, made = Shards(stream(documents(30, 1, 12, 0, 9, 200))), model(architecture, 16)
    first, *others = (scores.score(made, feed(architecture), shards, size) for size in (1, 3, 16, 100))
    assert first.tokens.count > 40
    assert first.pairs.count == (17 if architecture == "bert" else 0)  # 264 tokens in rows of 16
    for other in others:
        same(first, other)


@pytest.mark.parametrize("architecture", CLASSES)
@pytest.mark.parametrize("processes", [2, 3, 20])
def test_the_sums_of_several_processes_add_up_to_those_of_one(architecture, processes, stream):
    shards, made = Shards(stream(documents(30, 1, 12, 0, 9, 200))), model(architecture, 16)
    together = Score(nats_at=np.zeros(16), count_at=np.zeros(16))
    for process in range(processes):
        part = scores.score(made, feed(architecture), shards, 2, None, process, processes)
        for sums, more in ((together.tokens, part.tokens), (together.pairs, part.pairs)):
            sums.nats, sums.count, sums.correct = (
                sums.nats + more.nats,
                sums.count + more.count,
                sums.correct + more.correct,
            )
        together.nats_at += part.nats_at
        together.count_at += part.count_at
    same(scores.score(made, feed(architecture), shards, 2), together)


@pytest.mark.parametrize("architecture", sorted(CLASSES.keys() - MASKED))
def test_losses_by_place_weighted_by_their_counts_are_the_loss(architecture, stream):
    shards, made = Shards(stream(documents(103))), model(architecture, 16)
    score = scores.score(made, feed(architecture), shards, 4)
    # 104 tokens are predicted: six whole blocks and one of eight
    assert score.count_at.tolist() == [7] * 8 + [6] * 8
    means = score.nats_at / score.count_at
    assert (means * score.count_at).sum() / 104 == pytest.approx(score.tokens.loss, rel=1e-6)


def test_a_part_of_the_block_without_tokens_keeps_its_place(stream):
    score = scores.score(model("gpt2", 16), feed("gpt2"), Shards(stream(documents(9))), 4)
    # 10 of 16 places are predicted, two in each of the eight parts
    parts = [score.nats_at[n : n + 2].sum() / 2 for n in range(0, 10, 2)]
    assert score.by_position == [*map(pytest.approx, parts), None, None, None]
    assert scores.figures(score.sums)["valid_loss_by_position"] == score.by_position


def test_the_losses_at_a_place_are_those_of_the_tokens_there(stream):
    tokens, gpt2 = documents(31), model("gpt2", 16)
    shards = Shards(stream(tokens))
    blocks = torch.from_numpy(np.stack([tokens[:17], tokens[16:33]]))
    with torch.no_grad():
        likelihood = gpt2(input_ids=blocks[:, :-1]).logits.log_softmax(-1).gather(2, blocks[:, 1:, None])
    score = scores.score(gpt2, feed("gpt2"), shards, 1)
    assert score.nats_at == pytest.approx(-likelihood.sum(dim=(0, 2)).numpy(), rel=1e-5)


def test_a_limit_leaves_out_the_later_blocks(stream):
    tokens, gpt2 = documents(30, 40, 50), model("gpt2", 16)
    some = scores.score(gpt2, feed("gpt2"), Shards(stream(tokens)), 2, limit=3)
    whole = scores.score(gpt2, feed("gpt2"), Shards(stream(tokens[:49], name="first")), 2)
    same(some, whole)
    assert some.tokens.count == 48


def test_a_score_counts_right_predictions(stream):
    roberta = model("roberta", 16)
    torch.nn.init.zeros_(roberta.lm_head.decoder.weight)
    with torch.no_grad():
        roberta.lm_head.bias[300] = 5.0  # always says 300
    tokens = np.where(np.arange(400) % 4 == 0, 300, 301)
    total = scores.score(roberta, feed("roberta", mlm_probability=0.9), Shards(stream(tokens)), 8).tokens
    assert total.count == 25 * round(0.9 * 16)
    assert total.correct / total.count == pytest.approx(1 / 4, abs=0.03)
    expected = total.count * np.log(np.exp(5) + PIECES - 1) - 5 * total.correct
    assert total.nats == pytest.approx(expected, rel=1e-5)


def test_the_pairs_of_a_bert_are_scored_apart_from_its_tokens(stream):
    bert = model("bert", 16)
    for layer in (bert.cls.predictions.decoder, bert.cls.seq_relationship):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        bert.cls.seq_relationship.bias[1] = math.log(3)  # always says 1, three to one
    score = scores.score(bert, feed("bert"), Shards(stream(documents(1598))), 8)
    assert score.tokens.loss == pytest.approx(math.log(PIECES), rel=1e-5)
    assert score.pairs.count == 100
    right = score.pairs.correct
    assert 30 < right < 70
    assert score.pairs.nats == pytest.approx(100 * math.log(4) - right * math.log(3), rel=1e-5)


def test_the_masks_of_a_score_are_the_same_each_time(stream):
    shards, roberta = Shards(stream(documents(100, 100))), model("roberta", 16)
    torch.manual_seed(1)
    first = scores.score(roberta, feed("roberta"), shards, 4)
    torch.manual_seed(2)
    np.random.seed(2)
    assert scores.score(roberta, feed("roberta"), shards, 4).tokens == first.tokens


@pytest.mark.parametrize("architecture", ["gpt2", "roberta"])
def test_scoring_turns_dropout_off_and_on_again(architecture, stream):
    dropout = {"gpt2": "resid_pdrop", "roberta": "hidden_dropout_prob"}[architecture]
    made = model(architecture, 16, **{dropout: 0.5})
    shards = Shards(stream(documents(50)))
    exact = scores.score(made, feed(architecture), shards, 4).tokens
    assert not made.training
    made.train()
    assert scores.score(made, feed(architecture), shards, 4).tokens == exact
    assert made.training


def stretch_of_documents(stream, *lengths: int) -> tuple[Shards, list[np.ndarray]]:
    """Shards with an index, and the tokens of each document."""
    tokens = documents(*lengths)
    manifest = stream(tokens)
    ends = np.cumsum([length + 2 for length in lengths])
    np.save(manifest.parent / "index.npy", np.stack([ends, np.zeros_like(ends)], axis=1))
    return Shards(manifest), np.split(tokens, ends[:-1])


def likelihoods(gpt2, tokens: np.ndarray) -> np.ndarray:
    """Nats of each token but the first, seen together."""
    ids = torch.from_numpy(tokens)[None]
    with torch.no_grad():
        return -gpt2(input_ids=ids[:, :-1]).logits[0].log_softmax(1).gather(1, ids[0, 1:, None])[:, 0].numpy()


@pytest.mark.parametrize("length", [2, 16, 17, 18, 40, 49, 50])
def test_rolling_windows_ask_each_token_once_and_the_last_is_filled_up(length, stream):
    shards = Shards(stream(np.arange(7, 107)))
    rows = list(scores.rolling(shards, range(30, 30 + length), 16))
    asked = [place for row in rows for place in range(row.start + 1 + row.context, row.start + row.length)]
    assert asked == list(range(31, 30 + length))
    assert rows[0].length == min(17, length)
    assert all(row.length == 17 for row in rows[1:])


@pytest.mark.parametrize("size", [1, 15, 16])
def test_rolling_windows_are_those_of_lm_evaluation_harness(size, stream):
    shards = Shards(stream(np.arange(7, 107)))
    for length in range(1, 70):
        prefix, *tokens = range(37, 38 + length)
        expected = []
        for done in range(0, length, size):  # of get_rolling_token_windows, made disjoint by make_disjoint_window
            asked = tokens[done : done + size]
            context = tokens[done + len(asked) - size - 1 : done] if done else [prefix]
            fed = [*context, *asked][-size - 1 : -1]  # by _loglikelihood_tokens
            expected.append((fed, asked))
        rows = scores.rolling(shards, range(30, 31 + length), size)
        seen = [(row.context, shards.read(row.start, row.length).tolist()) for row in rows]
        assert [(ids[:-1], ids[1 + context :]) for context, ids in seen] == expected


def test_each_document_alone_is_asked_as_lm_evaluation_harness_does_it(stream):
    lengths = (30, 1, 16, 0, 9, 100, 15, 17)
    shards, found = stretch_of_documents(stream, *lengths)
    gpt2, expected = model("gpt2", 16), []
    for document in found:
        prefix, tokens, nats, done = document[0], list(document[1:-1]), 0.0, 0
        while done < len(tokens):  # utils.get_rolling_token_windows with max_seq_len 16 and context_len 1
            end = min(done + 16, len(tokens))
            inputs = [prefix, *tokens[: end - 1]] if done == 0 else tokens[end - 17 : end - 1]
            asked = tokens[done:end]
            nats += likelihoods(gpt2, np.array([*inputs, asked[-1]]))[-len(asked) :].sum()
            done = end
        expected.append(nats)
    made = scores.by_document(gpt2, feed("gpt2"), shards, 3)
    assert made[:, 0] == pytest.approx(expected, rel=1e-5)
    assert made[:, 1].tolist() == list(lengths)
    assert scores.by_document(gpt2, feed("gpt2"), shards, 100) == pytest.approx(made, rel=1e-5)


def test_the_documents_of_several_processes_add_up_to_those_of_one(stream):
    shards, _ = stretch_of_documents(stream, *range(1, 60))
    gpt2 = model("gpt2", 16)
    parts = [scores.by_document(gpt2, feed("gpt2"), shards, 2, 1, process, 3) for process in range(3)]
    assert all(part[:, 1].any() for part in parts)
    assert sum(parts) == pytest.approx(scores.by_document(gpt2, feed("gpt2"), shards, 2), rel=1e-5)


@pytest.mark.parametrize("tokens", [2, 8, 9, 17, 24, 25, 26, 100, 105, 112])
@pytest.mark.parametrize("block_size", [16, 15])
def test_a_sliding_window_is_the_second_halves_of_the_blocks_and_of_those_between(tokens, block_size, stream):
    ids = documents(200)[:tokens]
    shards, gpt2, half = Shards(stream(ids)), model("gpt2", 16), block_size // 2
    nats, asked = 0.0, 0
    for begin in sorted({*range(0, tokens, block_size), *range(half, tokens, block_size)}):  # as in transformers' docs
        end = min(begin + block_size + 1, tokens)
        if new := end - 1 - asked:
            nats += likelihoods(gpt2, ids[begin:end])[-new:].sum()
            asked = end - 1
    blocks = scores.score(gpt2, feed("gpt2", block_size), shards, 2)
    between = sum(
        part.sum(axis=0)
        for part in scores.nats_of(gpt2, feed("gpt2", block_size), scores.between(shards, block_size), 2)
    )
    assert between[1] + blocks.count_at[half:].sum() == tokens - 1 == asked
    assert between[0] + blocks.nats_at[half:].sum() == pytest.approx(nats, rel=1e-5)


def test_an_interval_is_that_of_the_quotient_of_sums():
    sizes = np.random.default_rng(1).integers(50, 500, 400)
    assert scores.interval(3.0 * sizes, sizes) == (3.0, 3.0)
    rates = np.random.default_rng(2).normal(3, 0.5, 400)
    low, high = scores.interval(rates * sizes, sizes)
    assert low < (rates * sizes).sum() / sizes.sum() < high
    # of a mean with weights, to first order
    spread = np.sqrt((sizes**2 * (rates - 3) ** 2).sum()) / sizes.sum()
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert scores.interval(rates * sizes, sizes) == (low, high)
