import base64
import io
import re

from fontTools.ttLib import TTFont

from jalm.formats import pages


def test_what_is_no_html_is_escaped():
    made = pages.tag("li", "<b>&", pages.tag("i", "猫"), title='"')
    assert made == '<li title="&quot;">&lt;b&gt;&amp;<i>猫</i></li>'


def test_columns_of_numbers_are_at_the_right():
    made = pages.table(["model", "on", "loss"], [["a", "GPU", "3.2"]], text=2)
    assert '<td class="text">a</td><td class="text">GPU</td><td>3.2</td>' in made


def test_the_characters_of_a_page_travel_with_it_and_no_others():
    made = pages.page("見出し", pages.paragraph("吾輩は猫である。𠮷 🙂 – abc"))
    assert made == pages.page("見出し", pages.paragraph("吾輩は猫である。𠮷 🙂 – abc"))
    font = TTFont(io.BytesIO(base64.b64decode(re.search(r"font/woff;base64,([^\"]+)", made)[1])))
    assert set(map(chr, font.getBestCmap())) == set("見出し吾輩は猫である。")
    assert len(made) < 20_000


def test_a_page_without_japanese_carries_no_font():
    assert "@font-face" not in pages.page("Overview", pages.paragraph("Tokens – “seen”"))
