#!/usr/bin/env python3
"""Checks the links between the pages of the documentation, and prepares the pages for mdBook.

    links.py sources           every link in the Markdown files, and that docs/SUMMARY.md has all of them
    links.py stage FOLDER      copies the pages, and the files that they link to, for mdBook
    links.py site FOLDER       every link in the HTML that mdBook has made

`sources` and `site` print each broken link, and at the end `N pages, N links, N broken`. They fail if a link is broken.
Links to other hosts are not followed. Needs only Python 3.
"""

import html.parser
import os
import pathlib
import re
import shutil
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUMMARY = pathlib.Path("docs/SUMMARY.md")

FENCE = re.compile(r"^( *)(`{3,}|~{3,})[^\n]*\n.*?^ *\2[`~]*[ \t]*$\n?", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
# A code span may continue on the next line, but not in the next paragraph.
CODE = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^()\s<>]*)>?(?:\s+(?:\"[^\"]*\"|'[^']*'))?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]\n]+\]:\s*<?([^\s<>]+)>?", re.MULTILINE)
HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*$", re.MULTILINE)
ANCHOR = re.compile(r"<[a-z]+\s[^>]*\b(?:id|name)=[\"']?([^\s\"'>]+)")


class Page:
    """One page: the links in it, as (line, target), and the anchors that links can lead to."""

    def __init__(self, links, anchors):
        self.links = links
        self.anchors = anchors


def blank(match):
    """What replaces code: as many lines, so that the numbers of the following lines stay right."""
    return "\n" * match.group().count("\n")


def slug(heading):
    """The anchor of a heading: the same on GitHub, GitLab and in mdBook."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[`*]", "", text).lower()
    return "".join(c for c in text.replace(" ", "-") if c.isalnum() or c in "-_")


def markdown(text):
    """Reads a page of Markdown."""
    text = COMMENT.sub(blank, FENCE.sub(blank, text))
    anchors = set()
    for heading in HEADING.findall(text):
        name = base = slug(heading)
        number = 0
        while name in anchors:
            number += 1
            name = f"{base}-{number}"
        anchors.add(name)
    text = CODE.sub(blank, text)
    anchors.update(ANCHOR.findall(text))
    links = [
        (text.count("\n", 0, found.start(1)) + 1, found.group(1))
        for pattern in (LINK, REFERENCE)
        for found in pattern.finditer(text)
    ]
    return Page(sorted(links), anchors)


class Html(html.parser.HTMLParser):
    """Reads a page of HTML."""

    def __init__(self):
        super().__init__()
        self.links = []
        self.anchors = set()

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append((self.getpos()[0], value))


def hypertext(text):
    """Reads a page of HTML."""
    reader = Html()
    reader.feed(text)
    return Page(reader.links, reader.anchors)


def pages(root, suffix, read):
    """All pages below a folder, by path. Folders that are built or hidden are not searched."""
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if f != "target" and not f.startswith("."))
        for name in sorted(files):
            if name.endswith(suffix):
                path = pathlib.Path(folder, name)
                found[path.relative_to(root)] = read(path.read_text(encoding="utf-8"))
    return found


def follow(path, link):
    """The file and the anchor that a link on a page leads to; None for a link to another host."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    file = urllib.parse.unquote(parts.path)
    target = os.path.normpath(path.parent / file) if file else str(path)
    return pathlib.Path(target), urllib.parse.unquote(parts.fragment)


def wrong(root, found, path, link):
    """What is wrong with a link; None for a good one."""
    target, anchor = follow(path, link)
    if target.is_absolute() or target.parts[:1] == ("..",):
        return "leads out of the repository"
    if target == SUMMARY:
        return "leads to the table of contents, for which the site has no page"
    if (root / target).is_dir():
        return "leads to a folder, for which the site has no page: link to a file in it"
    if not (root / target).is_file():
        return "leads to a file that does not exist"
    if anchor and target in found and anchor not in found[target].anchors:
        return f"leads to an anchor that {target} does not have"
    return None


def check(root, found, problems):
    """Checks all links, reports them together with other problems, and returns the exit code."""
    count = 0
    for path, page in found.items():
        for line, link in page.links:
            if follow(path, link) is None:
                continue
            count += 1
            reason = wrong(root, found, path, link)
            if reason:
                problems.append(f"{path}:{line}: {link} {reason}")
    for problem in problems:
        print(problem)
    print(f"{len(found)} pages, {count} links, {len(problems)} broken")
    return 1 if problems else 0


def not_listed(found):
    """The pages that are not in the table of contents, or that are in it twice."""
    listed = [follow(SUMMARY, link)[0] for _, link in found[SUMMARY].links]
    problems = [f"{path}: is not in {SUMMARY}" for path in found if path != SUMMARY and path not in listed]
    return problems + [f"{path}: is in {SUMMARY} twice" for path in sorted(set(listed)) if listed.count(path) > 1]


def sources(root):
    """The check of the Markdown files."""
    found = pages(root, ".md", markdown)
    return check(root, found, not_listed(found))


def stage(root, folder):
    """Copies all pages and the files that they link to. Every path stays the same, so all links stay right.

    mdBook demands the table of contents at the root of the pages, so its links are written anew.
    """
    shutil.rmtree(folder, ignore_errors=True)
    found = pages(root, ".md", markdown)
    files = set(found)
    for path, page in found.items():
        for _, link in page.links:
            target = follow(path, link)
            if target and not wrong(root, found, path, link):
                files.add(target[0])
    for file in sorted(files - {SUMMARY}):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / file, folder / file)
    contents = (root / SUMMARY).read_text(encoding="utf-8")
    contents = LINK.sub(lambda found: f"]({follow(SUMMARY, found.group(1))[0]})", contents)
    (folder / "SUMMARY.md").write_text(contents, encoding="utf-8")
    return 0


def main(arguments):
    """Runs the command of the arguments, and returns the exit code."""
    if arguments == ["sources"]:
        return sources(ROOT)
    if len(arguments) == 2 and arguments[0] == "stage":
        return stage(ROOT, pathlib.Path(arguments[1]))
    if len(arguments) == 2 and arguments[0] == "site":
        return check(pathlib.Path(arguments[1]), pages(arguments[1], ".html", hypertext), [])
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
