"""Promise: every link in our pages leads to a file that is there, and to a heading that it has; the README's first edit finds its line."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "data/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "records").rglob("README.md")),
]


def anchors(page: str) -> set[str]:
    """What GitHub calls the headings of a page: lower case, spaces as dashes, other punctuation gone, the text of links alone."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?s)```.*?```", "", page))
    texts = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-") for text in texts}


def dead_links(page: Path) -> list[str]:
    """The links of a page that lead nowhere. Those to other sites are not followed."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if re.match("https?:|mailto:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert dead_links(page) == []


def test_dead_links_are_found(tmp_path):
    (tmp_path / "b.md").write_text("# One `two`, three\n")
    page = tmp_path / "a.md"
    page.write_text("[x](b.md) [x](b.md#one-two-three) [x](https://example.org/c.md#d) [x](#none) [x](b.md#one) [x](c.md)\n")
    assert dead_links(page) == ["#none", "b.md#one", "c.md"]


def test_the_first_edit_of_the_readme_finds_its_line():
    old, new = re.search(r"find `([^`]+)`[^`]+and write\n`([^`]+)`", (ROOT / "README.md").read_text(encoding="utf-8")).groups()
    source = (ROOT / "train_gpt.py").read_text(encoding="utf-8")
    assert source.count(old) == 1
    compile(source.replace(old, new), "train_gpt.py", "exec")
