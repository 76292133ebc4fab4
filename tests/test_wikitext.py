import time
from pathlib import Path

import pytest
import yaml

from jalm.formats import templates, wikitext

RULES = templates.load(templates.TABLE)


def shown(text: str, title: str = "東京", *, lists: bool = True, headings: bool = True) -> str:
    """What the two passes make of wikitext without the links, which are wikiextractor's."""
    return wikitext.finish(wikitext.prepare(text, title, RULES, lists=lists), headings=headings)


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("{{読み仮名|'''水素'''|すいそ|{{lang-en-short|hydrogen}}}}は", "水素（すいそ、英: hydrogen）は"),
        ("{{読み仮名_ruby不使用|水素|すいそ}}", "水素（すいそ）"),
        ("{{Ruby|彼方|かなた}}の{{ルビ|宇宙|そら}}", "彼方（かなた）の宇宙（そら）"),
        ("<ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp>字<rt>じ</ruby>", "漢（かん）字（じ）"),
        ("{{仮リンク|A|en|B|label=表示}}と{{仮リンク|甲|en|Kō}}", "表示と甲"),
        ("{{lang-zh-hans|老挝}}、{{lang-xyz|ⴰⵎⴰⵣⵉⵖ}}、{{Lang|ko|한글}}", "中国語: 老挝、ⴰⵎⴰⵣⵉⵖ、한글"),
        ("（{{lang-fr|}}、{{IPA-fr|sosyʁ|}}）", "（sosyʁ）"),
        ("{{small|{{color|red|{{仮リンク|深い|en|deep}}}}}}", "深い"),
        ("{{JPN}}と{{flag|FRA}}と{{Flagicon|USA}}と{{jpn}}", "日本とフランスとと"),
        ("人口{{formatnum:1234567.25}}人、{{formatnum:約3万}}", "人口1,234,567.25人、約3万"),
        ("{{#if: |多い|少ない}}{{#if:x|多い}}{{#tag:ref|注}}", "少ない多い"),
        ("{{PAGENAME}}の{{Template:ruby|駅|えき}}", "東京の駅（えき）"),
        ("{{chem|CO|2}}、{{val|1.5|e=3|u=m}}、{{convert|14|K|℃}}", "CO2、1.5 × 10^3 m、14 K"),
        ("{{Nihongo|'''磁石'''|じしゃく||{{lang-en-short|magnet}}}}は、", "磁石（じしゃく、英: magnet）は、"),
        ("指す端を'''{{Nihongo|N極|エヌきょく|north pole}}'''、", "指す端をN極（エヌきょく、north pole）、"),
        ("{{nihongo|'''東京'''}}、{{nihongo|'''折り紙'''||origami}}", "東京、折り紙（origami）"),
        (
            "{{convert|100|-|130|cm|in}}、{{cvt|3|x|-0.5|m}}、{{convert|12345.5|km2|0}}",
            "100 - 130 cm、3 × -0.5 m、12,345.5 km2",
        ),
        ("{{convert|770|C|K|disp=output only}}", "770 C"),
        ("{{val|1.1|ul=V}}、{{val|5.1|ul=atm}}以上、{{val|1.45|u=g|up=L}}", "1.1 V、5.1 atm以上、1.45 g/L"),
        ("{{val|1024|u=バイト|fmt=commas}}、{{val|14000|u=km}}、{{val|2|e=-5}}", "1,024 バイト、14000 km、2 × 10^-5"),
        ("昆虫{{snamei||Belgica antarctica}}と{{Sname|Prunus}}である", "昆虫Belgica antarcticaとPrunusである"),
        ("（{{ラテン翻字|el|antarktikós}}、「北の」）", "（antarktikós、「北の」）"),
        ("（U+2643 {{smallcaps|jupiter}}）", "（U+2643 jupiter）"),
        ("（かつしか ほくさい、{{旧字体|葛飾北齋}}）", "（かつしか ほくさい、旧字体: 葛飾北齋）"),
        (
            "{{unichar|FF71|HALFWIDTH KATAKANA LETTER A}}と{{unichar|字}}{{unichar|D800}}{{unichar|0A}}",
            "U+FF71 ｱ halfwidth katakana letter aと",
        ),
        (
            "差は{{NumBlk|:|<math>M - V = \\pm 2</math>|{{EquationRef|1}}}}である。",
            "差は\nM - V = \\pm 2 (1)\nである。",
        ),
        ("{{Chem2|O\\dC\\dO}}、: {{Chem2|Cu(2+) + 2e- → Cu}}", "O=C=O、: Cu2+ + 2e− → Cu"),
        ("{{Chem2|H+ + HCO3-}}、{{chem2|Ca(HCO3)2}}、{{chem2|SO4(2-) -> x}}", "H+ + HCO3−、Ca(HCO3)2、SO42− → x"),
        ("2{{sup|6}} = 64、km{{Sup|2}}、''a{{sup|n}}''、甲{{sup|注1}}", "2^6 = 64、km2、an、甲注1"),
        (
            "{{Quotation|花のいのち|林芙美子|『浮雲』}}{{cquote|雨|20px|20px|甲}}",
            "花のいのち\n林芙美子、『浮雲』\n雨\n甲",
        ),
        (
            "{{Quote box\n|width=30%\n|quote={{ruby|諸行|しょぎょう}}<br />是生\n|source=『経』\n}}",
            "諸行（しょぎょう）\n是生",
        ),
        ("{{small|x{{=}}1}}と{{small|1=a=b}}", "x=1とa=b"),
        ("{{要出典範囲|お城は大きい|date=2019年}}{{要出典|date=2020年}}。", "お城は大きい。"),
    ],
)
def test_a_template_becomes_what_a_reader_sees(written, seen):
    assert shown(written) == seen


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("H<sub>2</sub>O<small>（水）</small><br />次", "H2O（水）\n次"),
        ("質量は<math>E\n  = mc^2</math>。<math>x....y << ''z''</math>", "質量はE = mc^2。x....y << ''z''"),
        ("<nowiki>[[鍵]]と'''太字'''と{{雛形|a=b}}と&lt;br&gt;</nowiki>", "[[鍵]]と'''太字'''と{{雛形|a=b}}と<br>"),
        ("前<ref name=\"a>b\" />中<ref>注<br>釈</ref>後<ref name='c'/>", "前中後"),
        ("前<!-- <ref> -->中<!-- 閉じない\n後", "前中"),
        ("<gallery>\nA.jpg|説明\n</gallery>本文<pre>ＡＡ</pre>続き", "本文\n続き"),
        ("ヘッダー<stdio.h>と3 < 5と a<b>c", "ヘッダー<stdio.h>と3 < 5と ac"),
        ("AT&amp;T、&amp;lt;、&amp;nbsp;と&copy;、&unknown;、&#x3042;", "AT&T、&lt;、 と©、&unknown;、あ"),
        ('<div style="a">一</div><poem>二\n三</poem>', "一\n二\n三"),
        ("2<sup>8</sup>、10<sup>&minus;3</sup>、2<sup>''n''</sup>", "2^8、10^−3、2^n"),
        (
            "人/km<sup>2</sup>、Fe<sup>3+</sup>、SO<sub>4</sub><sup>2-</sup>、(x)<sup>2</sup>",
            "人/km2、Fe3+、SO42-、(x)2",
        ),
        ("1<sup>er</sup>、N<sup>*</sup>相、注<sup>[1]</sup>、甲<sup>注1</sup>", "1er、N*相、注[1]、甲注1"),
        ('甲。<div class="thumbcaption">[[点字盤]]と<b>点筆</b></div><div>乙。</div>', "甲。\n乙。"),
        ("<ref>閉じない注と、本文。", "閉じない注と、本文。"),
        ("__NOTOC__本文__目次非表示__と__init__", "本文と__init__"),
        ("''斜''と'''太'''と'''''両'''''、L''''or'''、五'時", "斜と太と両、L'or、五'時"),
    ],
)
def test_an_element_becomes_what_a_reader_sees(written, seen):
    assert shown(written) == seen


@pytest.mark.parametrize(
    "text",
    [
        '「《引用》」と......と…… <<山>> ""二重""、「3.14」',
        "Microsoft .NET と f( x ) ( y ) と [ z ]、a ,b ,, c",
        "main() と（）の使い方",
        "(括弧だけの行)",
        "{1, 2} の集合 }",
        "E-mail: a@b.example、1:30、50%、＃１、AB & C",
        "ﾊﾝｶｸ・全角Ａ　空白🗾絵文字",
    ],
)
def test_text_without_markup_stays_as_it_is(text):
    assert shown(text) == text


def test_headings_and_list_items_stand_on_lines_of_their_own():
    page = "導入。\n== 歴史 ==<!-- c -->\n* 一つ目<br>続き\n*# 二つ目\n; 用語 : 説明\n:字下げ。\n----\n 整形済み"
    assert shown(page) == "導入。\n歴史\n一つ目\n続き\n二つ目\n用語\n説明\n字下げ。\n整形済み"
    assert shown(page, lists=False) == "導入。\n歴史\n字下げ。\n整形済み"
    assert "歴史" not in shown(page, headings=False)


def test_a_heading_with_no_text_below_it_goes_but_its_chapter_stays():
    page = "== 章 ==\n=== 空 ===\n{{図}}\n=== 節 ===\n文。\n== 終 ==\n"
    assert shown(page) == "章\n節\n文。"


@pytest.mark.parametrize("name", ["脚注", "出典・脚注", "注釈と出典", " 関連 項目 ", "[[参考文献]]", "External links"])
def test_apparatus_goes_with_the_sections_below_it(name):
    assert shown(f"文。\n== {name} ==\n* 甲\n=== 乙 ===\n丙\n== 次 ==\n丁。") == "文。\n次\n丁。"


def test_a_section_that_only_sounds_like_apparatus_stays():
    assert shown("== 脚注と評価 ==\n文。") == "脚注と評価\n文。"


def test_tables_go_even_inside_each_other_and_inside_templates():
    page = (
        "前。\n{| class=x\n| a\n{|\n| {{lang|en|b|c}}\n|}\n|}\n中。\n:{|\n| [[閉じない\n|}\n{{箱|\n{|\n| d\n|}}}\n後。"
    )
    assert shown(page) == "前。\n中。\n後。"


def test_what_is_never_closed_damages_only_its_own_place():
    assert shown("甲{{閉じない\n乙。\n{{small|丙}}。") == "甲閉じない\n乙。\n丙。"
    assert shown("甲。\n{| border=1\n|-\n| 乙\n丙。\n== 丁 ==\n戊。") == "甲。\n丙。\n丁\n戊。"
    assert shown("甲[[乙。\n\n丙}}丁]]。") == "甲乙。\n丙丁。"
    assert shown("{{Infobox\n| 名 = 甲\n{{small|乙}}。\n丙。") == "Infobox\n乙。\n丙。"


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("東京（{{x}}、）は（、とうきょう）で（とうきょう、{{x}}）", "東京は（とうきょう）で（とうきょう）"),
        ("甲、{{x}}、乙。<ref>注</ref>。丙。。。", "甲、乙。。丙。。。"),
        ("端を'''{{x}}'''、''{{x}}''、'''''{{x}}'''''。", "端を、。"),
        ("{{math|1=''L'' = {{sfrac|''a''|''b''}}''c''}}と{{lang|en|rock 'n' roll'}}''s''", "L = a/bcとrock 'n' roll's"),
        ("(({{x}}; 1900 - 2000)", "((1900 - 2000)"),
        ("文が終わる<ref>\n注\n</ref>\n。次の文。", "文が終わる。次の文。"),
        ("文。\n{{x}}。\n・\n文。", "文。\n文。"),
    ],
)
def test_what_a_dropped_template_leaves_is_tidied(written, seen):
    assert shown(written) == seen


@pytest.mark.parametrize(
    ("written", "passed_on"),
    [
        ("[[東京都|都]]", "[[東京都|都]]"),
        ("[[Re:ゼロから始める異世界生活|リゼロ]]", "リゼロ"),
        ("[[:Category:日本]]と[[:en:Tokyo|英語版]]", "日本と英語版"),
        ("[[en:Tokyo]][[Category:日本|*]][[カテゴリ:日本]]", ""),
        ("[[ファイル:A.jpg|thumb|[[東京タワー]]と{{lang|en|city}}の[http://a.example b]]]", ""),
        ("[[wikt:en:dog|犬]]", "犬"),
        ("{{small|[[東京都|都]]}}", "[[東京都|都]]"),
    ],
)
def test_links_that_wikiextractor_would_lose_are_resolved_before_it(written, passed_on):
    assert shown(written) == passed_on


@pytest.mark.parametrize(
    "template", ["aimai", "曖昧さ回避", "人名の曖昧さ回避", "地名の曖昧さ回避|区=1", "Disambig", "Aimai\n"]
)
def test_a_page_is_a_disambiguation_page_by_its_template(template):
    assert RULES.is_disambiguation("'''東京'''\n* [[東京都]]\n{{" + template + "}}")


@pytest.mark.parametrize(
    "note", ["{{要曖昧さ回避|date=2020年}}", "{{Otheruses|都|府|東京 (曖昧さ回避)}}", "<!-- {{aimai}} -->"]
)
def test_an_article_with_a_note_on_ambiguity_is_an_article(note):
    assert not RULES.is_disambiguation(f"両国{note}の国技館。")


def test_a_redirect_is_known_by_its_wikitext():
    assert wikitext.is_redirect("#REDIRECT [[東京都]] {{R from other}}")
    assert wikitext.is_redirect("#転送[[東京都]]")
    assert not wikitext.is_redirect("# 転送とは")


@pytest.mark.parametrize(
    "piece",
    [
        "{{",
        "{{a",
        "[[a|",
        "\n{|",
        "<ref>",
        '<ref name="',
        "<!--",
        "''",
        "（、",
        "[http://a ",
        "== ",
        "{{small|",
        " 、",
        "<sup>1",
        "{{sup|1 ",
        '<div class="thumbcaption">',
        "''{{x}}",
    ],
)
def test_no_markup_takes_more_than_linear_time(piece):
    begin = time.process_time()
    shown(piece * 100_000)
    assert time.process_time() - begin < 3  # seconds; quadratic is minutes


def test_private_use_characters_of_an_article_cannot_forge_marks():
    assert shown(f"甲{wikitext.MARK}1乙{wikitext.BREAK}丙{wikitext.SHIELDED['{']}\u2028丁") == "甲1乙丙\n丁"


def table(tmp_path: Path, **entries: object) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(entries, allow_unicode=True), encoding="utf-8")
    return path


def test_a_table_of_ones_own_goes_before_ours_and_leaves_the_rest_of_it(tmp_path):
    forms = {"{2}年[（{label|1}）]": ["元号", "元号-*"], "『{1}』": ["small", "lang-*"], "": ["Color"]}
    mine = table(tmp_path, templates=forms, countries={"WLD": "世界"}, apparatus=["余録"], disambiguation=["同名"])
    rules = templates.load(templates.TABLE, mine)
    assert rules.template(["元号", "令和", "8"], "") == "8年（令和）"
    assert rules.template(["元号-西暦", "", "2026"], "") == "2026年"
    assert rules.template(["元号", "令和"], "") == ""
    assert rules.template(["Small", "小"], "") == "『小』"
    assert rules.template(["lang-en", "sea"], "") == "『sea』"
    assert rules.template(["color", "red", "赤"], "") == ""
    assert rules.template(["flag", "WLD"], "") + rules.template(["JPN"], "") == "世界日本"
    assert rules.template(["big", "大"], "") == "大"
    assert all(map(rules.is_apparatus, ["余録", "脚注"]))
    assert all(map(rules.is_disambiguation, ["{{同名}}", "{{aimai}}"]))


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"templates": {"{1}（[{2}）": ["x"]}}, "brackets that do not match"),
        ({"templates": {"{upper:1}": ["x"]}}, "'upper:1' does not begin with one of: lower"),
        ({"templates": {"{1": ["x"]}}, "brackets that do not match"),
        ({"hidden": "file"}, "hidden is 'file': Input should be a valid list"),
        ({"templates": {"{1}": "small"}}, r"templates\.\{1\} is 'small': Input should be a valid list"),
        ({"langauges": {}}, r"langauges is not a known key; did you mean languages\?"),
        ({"色": {}}, "色 is not a known key; known are: templates, languages, .*, hidden$"),
    ],
)
def test_a_mistake_in_the_table_is_named(tmp_path, changed, complaint):
    with pytest.raises(templates.TemplateError, match=f"mine.yaml: .*{complaint}"):
        templates.load(templates.TABLE, table(tmp_path, **changed))


def test_a_paragraph_may_begin_with_a_sign_of_tables():
    wikitext_ = "!Kungは民族である。\n\n|x|は絶対値である。\n\n| 名前 = 値\n|}\n{|\n! 見出し\n| 欄\n"
    assert wikitext.finish(wikitext.prepare(wikitext_, "題", RULES)) == "!Kungは民族である。\n|x|は絶対値である。"
