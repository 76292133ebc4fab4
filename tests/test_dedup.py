import json
import logging
import random

import pytest

from jalm.formats import documents, sides, signatures
from jalm.stages import dedup

SHARES = {"valid_fraction": 0.2, "test_fraction": 0.2, "salt": "jalm"}
SHARE_FLAGS = ["--valid-fraction=0.2", "--test-fraction=0.2", "--salt=jalm"]


def of_side(side: str, count: int, start: int = 1) -> list[int]:
    """The first ids from `start` that fall on a side."""
    found = (number for number in range(start, start + 1000) if sides.drawn(number, **SHARES) == side)
    return [next(found) for _ in range(count)]


def article(seed: int, length: int = 600) -> str:
    """Text that is like no other."""
    draw = random.Random(seed)
    return "".join(chr(draw.randrange(0x4E00, 0x9FA0)) for _ in range(length))


def revised(text: str, characters: int) -> str:
    """A text with that many of its last characters written anew."""
    return text[:-characters] + article(-characters, characters)


@pytest.fixture
def drops(tmp_path):
    """What dedup drops from files of (id, text) pairs, given those of earlier corpora, of each of which one id may be `gone`.

    What it counted is in `drops.counts`.
    """

    def signed(corpora):
        for number, files in enumerate(corpora):
            for part, pairs in enumerate(files):
                path = tmp_path / str(number) / f"{part:03d}.jsonl.zst"
                path.parent.mkdir(exist_ok=True)
                with documents.writing(path) as writer:
                    for name, text, *own in pairs:
                        document = {"id": name, "text": text} | ({"side": own[0]} if own else {})
                        writer.write(signatures.entry(document, 5, 128))
                yield number, str(path)

    def run(*own, earlier=(), gone=(), config=()):
        files = list(signed([*earlier, own]))
        output, counts = tmp_path / "drop.jsonl.zst", tmp_path / "counts.json"
        paths = ["--input", *(path for number, path in files if number == len(earlier))]
        paths += ["--earlier", *(path for number, path in files if number < len(earlier))]
        paths.append("--earlier-drop")
        for number in range(len(earlier)):
            paths.append(str(tmp_path / str(number) / "drop.jsonl.zst"))
            with documents.writing(paths[-1]) as writer:
                for name in gone[number : number + 1]:
                    writer.write({"id": name})
        dedup.main([*SHARE_FLAGS, *config, *paths, "--output", str(output), "--counts", str(counts)])
        run.counts = json.loads(counts.read_text(encoding="utf-8"))
        run.reasons = {entry["id"]: entry["reason"] for entry in documents.read(output)}
        return {entry["id"]: entry["repeats"] for entry in documents.read(output)}

    return run


A, B, C, D, E = of_side("train", 5)
VALID, TEST = of_side("valid", 2), of_side("test", 2)


def test_of_equal_documents_the_first_stays_whatever_their_width(drops):
    assert drops([(A, "ガギグ。"), (B, "犬"), (C, "ｶﾞｷﾞｸﾞ｡"), (D, "ガギグ\n。")]) == {C: A, D: A}
    assert set(drops.reasons.values()) == {"equal to another"}


def test_of_similar_documents_the_first_stays(drops):
    text = article(1)
    assert drops([(A, text), (B, article(2)), (C, revised(text, 30))]) == {C: A}
    assert drops.reasons == {C: "near another"}


@pytest.mark.parametrize(("characters", "dropped"), [(20, 1), (200, 0), (400, 0)])
def test_the_threshold_is_the_share_of_common_ngrams(drops, characters, dropped):
    """600 characters have 596 n-grams; of these `characters` are rewritten: J = (596 - c) / (596 + c)."""
    pairs = [(A, article(1)), (B, revised(article(1), characters))]
    assert len(drops(pairs)) == dropped
    low = ["--threshold=0.3", "--bands=64"]
    assert len(drops(pairs, config=low)) == ((596 - characters) / (596 + characters) > 0.3)


def test_the_parts_of_a_corpus_are_one_corpus_in_any_order_and_number(drops):
    pairs = [(number, revised(article(number % 40), number // 40 * 5 + 5)) for number in range(200)]
    once = drops(pairs)
    assert len(once) == 160
    random.Random(1).shuffle(pairs)
    assert drops(pairs[:70], pairs[70:71], pairs[71:]) == once


def test_a_document_of_an_earlier_corpus_wins_on_any_side(drops):
    text = article(1)
    earlier = [[[("歌.txt:0", text, "train")]], [[("詩.txt:9", "犬")]]]
    own = [(A, "犬"), (VALID[0], text), (TEST[0], revised(text, 20)), (B, article(2))]
    assert drops(own, earlier=earlier) == {A: "詩.txt:9", VALID[0]: "歌.txt:0", TEST[0]: "歌.txt:0"}


def test_what_only_earlier_corpora_repeat_is_not_dropped_here(drops):
    assert drops([(A, "鳥")], earlier=[[[(B, "猫"), (C, "猫")]]]) == {}


def test_what_was_dropped_from_an_earlier_corpus_is_no_reason_to_drop_another(drops):
    earlier = [[[(A, "猫"), (B, "犬")]], [[(A, "鳥")]]]
    assert drops([(C, "猫"), (D, "鳥"), (E, "犬")], earlier=earlier, gone=[A]) == {D: A, E: B}


def test_earlier_corpora_that_are_alike_both_count(drops):
    """A wiki's dump, then a text that is not compared with it: both are whole when the next wiki comes."""
    one = article(1)
    two = revised(one, 150)  # J = (596 - 150) / (596 + 150) = 0.60
    three = article(-7, 150) + two[150:]  # 0.60 with two, (596 - 300) / (596 + 300) = 0.33 with one
    alike = ["--threshold=0.45", "--bands=64"]
    assert drops([(C, three)], earlier=[[[(A, one)]], [[(B, two)]]], config=alike) == {C: B}
    assert drops([(C, three)], earlier=[[[(A, one)]]], config=alike) == {}


def test_train_gives_way_to_valid_and_valid_to_test_whatever_comes_first(drops):
    text = article(1)
    late_valid, late_test = of_side("valid", 1, start=500)[0], of_side("test", 1, start=800)[0]
    assert drops([(A, text), (late_valid, revised(text, 10))]) == {A: late_valid}
    assert drops.reasons == {A: "near valid or test"}
    pairs = [(A, text), (late_valid, revised(text, 10)), (late_test, revised(text, 20))]
    assert drops(pairs) == {A: late_test, late_valid: late_test}


def test_the_contamination_is_counted_before_and_after(drops):
    texts = [article(n) for n in range(4)]
    pairs = [(A, texts[0]), (B, texts[0]), (C, texts[1]), (D, texts[2]), (E, texts[3])]
    pairs += [(VALID[0], revised(texts[0], 10)), (TEST[0], texts[1]), (TEST[1], revised(texts[0], 20))]
    drops(pairs)
    assert drops.counts["contamination"] == {"before": {"train": 3, "valid": 1}, "after": {"train": 0, "valid": 0}}
    drops(pairs, config=["--near=false"])
    assert drops.counts["contamination"] == {"before": {"train": 3, "valid": 1}, "after": {"train": 1, "valid": 1}}


def test_a_side_that_a_document_came_with_counts_and_not_its_id(drops):
    text = article(1)
    assert drops([(A, text, "train"), (B, revised(text, 10), "test")]) == {A: B}


def test_no_two_documents_that_stay_are_similar(drops):
    draw = random.Random(3)
    pairs = [(n, revised(article(draw.randrange(12)), draw.randrange(1, 90))) for n in range(300)]
    dropped = drops(pairs)
    grams = {n: {text[i : i + 5] for i in range(len(text) - 4)} for n, text in pairs}

    def jaccard(a, b):
        return len(grams[a] & grams[b]) / len(grams[a] | grams[b])

    stay = [n for n in grams if n not in dropped]
    assert len(stay) >= 12
    assert max(jaccard(a, b) for a in stay for b in stay if a != b) < 0.95  # surely found, whatever MinHash estimates
    assert min(jaccard(a, b) for a, b in dropped.items()) > 0.65


def test_nothing_is_dropped_when_the_search_is_off(drops):
    off = ["--exact=false", "--near=false"]
    assert drops([(A, "猫"), (B, "猫")], earlier=[[[(C, "猫")]]], config=off) == {}


def test_no_document_at_all_is_no_mistake(drops):
    assert drops([]) == {}


def test_the_closing_line_counts_the_repeated_by_reason(drops, caplog):
    text = article(1)
    with caplog.at_level(logging.INFO):
        drops([(A, "猫"), (B, "猫"), (C, text), (VALID[0], revised(text, 10))])
    assert "4 documents in, 2 documents out; dropped: 1 equal to another, 1 near valid or test" in caplog.text


def test_signatures_of_another_length_are_refused(drops):
    with pytest.raises(dedup.SignatureError, match="MinHashes of 128, not 256"):
        drops([(A, "猫")], config=["--num-perm=256"])
