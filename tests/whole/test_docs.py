"""The documents name existing tests, flags and files, and are easy to read."""

import re
import shlex

import pytest
from conftest import PROJECT

TABLE = (PROJECT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8")
FOLDERS = ("", "batch", "docs", "docs/decisions", "examples", "tests", "weights")
PAGES = {
    path.relative_to(PROJECT).as_posix(): path.read_text(encoding="utf-8")
    for folder in FOLDERS
    for path in sorted((PROJECT / folder).glob("*.md"))
    if path.name != "CHANGELOG.md"  # the entries of earlier versions stay as they were
}
LINK = re.compile(r"!?\[([^]]*)\]\(([^)\s]*)\)")
COMMANDS = sorted(set(re.findall(r"`pytest ([^`]+)`", TABLE)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_table_of_faults_finds_tests(command):
    words = shlex.split(command)
    chosen = words[words.index("-k") + 1] if "-k" in words else ""
    files = [word for word in words if word.startswith("tests/")]
    assert files
    text = "".join((PROJECT / file).read_text(encoding="utf-8") for file in files)
    named = "\n".join(re.findall(r"def test_\w+", text))
    for part in re.findall(r"\w+", chosen):
        assert part in ("or", "and", "not") or part in named, part


def test_the_page_on_predicting_names_every_flag_and_every_output():
    import dataclasses

    from commands.prediction.inputs import ENDINGS
    from config import PredictConfig

    page = (PROJECT / "docs" / "PREDICTING.md").read_text(encoding="utf-8")
    flags = [f for f in dataclasses.fields(PredictConfig) if not f.metadata["words"]]
    for field in flags:
        assert re.search(rf"`--{field.metadata['flag'] or field.name}\b", page), field.name
    for ending in ENDINGS.values():
        assert f"`NAME{ending}`" in page


def prose(page):
    """Return the headings, paragraphs and list items of a page; no code blocks and no tables."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S)
    text = re.sub(r"^\|.*$", "", text, flags=re.M)
    text = re.sub(r"^(#.*)$", r"\n\1\n", text, flags=re.M)
    return re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.) )", text)


def sentences(block):
    """Return the sentences of a block; inline code counts as a word, a link as its text."""
    text = LINK.sub(r"\1", re.sub(r"`[^`]*`", "code", " ".join(block.split())))
    return re.split(r"(?<=[.!?])[)\"*_]*\s+", text.replace("et al.", "et al"))


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page, flags=re.M)
    return [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_wrapped_at_100_characters(name):
    text = re.sub(r"^```.*?^```$", "", PAGES[name], flags=re.M | re.S)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "!["))]
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_sentence_has_at_most_25_words(name):
    found = [sentence for block in prose(PAGES[name]) for sentence in sentences(block)]
    counts = [len(re.findall(r"\S*\w\S*", sentence)) for sentence in found]
    assert [text for text, count in zip(found, counts, strict=True) if count > 25] == []
    assert sum(counts) / len(counts) <= 15


@pytest.mark.parametrize("name", PAGES)
def test_a_link_leads_to_a_file_and_a_heading(name):
    folder = (PROJECT / name).parent
    for _, target in LINK.findall(re.sub(r"`[^`]*`", "", PAGES[name])):
        path, _, anchor = target.partition("#")
        if not target.startswith("http"):
            page = folder / path if path else PROJECT / name
            assert page.exists(), target
            assert not anchor or anchor in anchors(page.read_text(encoding="utf-8")), target


def test_the_first_pages_are_short():
    assert len(PAGES["README.md"].splitlines()) <= 130
    assert len(PAGES["docs/ARCHITECTURE.md"].split()) <= 1200
