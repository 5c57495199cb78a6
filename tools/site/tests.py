#!/usr/bin/env python3
"""Tests of links.py: what it must find, and what it must not."""

import contextlib
import io
import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True  # nothing is left behind in the tree

import links  # noqa: E402

GOOD = {
    "README.md": "# Quarry\n\nSee [the\npools](docs/pools.md#two-words-a--code), [a file](examples/a.yaml) and\n"
    "[elsewhere](https://example.com/missing.md).\n\n```sh\n[no](link.md)\n# no heading\n```\nand `[no](link.md)`.\n",
    "docs/SUMMARY.md": "# Summary\n\n[Quarry](../README.md)\n\n- [Pools](pools.md)\n",
    "docs/pools.md": "# Pools\n\n## Two words: `A` – *code*\n\n## Again\n\n## Again\n\n"
    "[here](#again-1), [up](../README.md#quarry)\n",
    "examples/a.yaml": "a: 1\n",
    "target/ignored.md": "[no](link.md)\n",
}


class Links(unittest.TestCase):
    """Each test writes a small repository and checks it."""

    def run_in(self, files, command):
        """Runs a command in a repository with these files, and returns its exit code and what it printed."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text, encoding="utf-8")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                code = command(root)
        return code, printed.getvalue()

    def finds(self, message, changes):
        """The good repository with these changes has exactly this one problem."""
        code, printed = self.run_in(GOOD | changes, links.sources)
        self.assertEqual(code, 1, printed)
        self.assertIn(message, printed)
        self.assertIn(" 1 broken", printed)

    def test_good(self):
        self.assertEqual(self.run_in(GOOD, links.sources), (0, "3 pages, 6 links, 0 broken\n"))

    def test_file(self):
        changes = {"docs/pools.md": GOOD["docs/pools.md"] + "[x](missing.md)\n"}
        self.finds("docs/pools.md:10: missing.md leads to a file", changes)

    def test_anchor(self):
        self.finds("README.md:4: docs/pools.md#two-words-a--code leads to an anchor", {"docs/pools.md": "# Pools\n"})

    def test_second_anchor(self):
        self.finds("#again-1 leads to an anchor", {"docs/pools.md": GOOD["docs/pools.md"].replace("## Again\n", "", 1)})

    def test_folder(self):
        self.finds("README.md:13: examples leads to a folder", {"README.md": GOOD["README.md"] + "\n[x](examples)\n"})

    def test_outside(self):
        self.finds("README.md:13: ../x.md leads out", {"README.md": GOOD["README.md"] + "\n[x](../x.md)\n"})

    def test_contents(self):
        changes = {"README.md": GOOD["README.md"] + "\n[x](docs/SUMMARY.md)\n"}
        self.finds("README.md:13: docs/SUMMARY.md leads to the table of contents", changes)

    def test_definition(self):
        self.finds("gone.md leads to a file", {"README.md": GOOD["README.md"] + "\n[x]: gone.md\n"})

    def test_not_listed(self):
        self.finds("docs/new.md: is not in docs/SUMMARY.md", {"docs/new.md": "# New\n"})

    def test_listed_twice(self):
        changes = {"docs/SUMMARY.md": GOOD["docs/SUMMARY.md"] + "- [P](pools.md)\n"}
        self.finds("docs/pools.md: is in docs/SUMMARY.md twice", changes)

    def test_stage(self):
        def staged(root):
            links.stage(root, root / "staged")
            copies = root / "staged"
            files = sorted(str(f.relative_to(copies)) for f in copies.rglob("*") if f.is_file())
            self.assertEqual(files, ["README.md", "SUMMARY.md", "docs/pools.md", "examples/a.yaml"])
            contents = (copies / "SUMMARY.md").read_text(encoding="utf-8")
            self.assertIn("[Quarry](README.md)\n\n- [Pools](docs/pools.md)", contents)
            return 0

        self.run_in(GOOD, staged)

    def test_site(self):
        pages = {
            "index.html": '<a href="b.html#there">b</a><img src="i.png">',
            "b.html": '<h1 id="there">B</h1>',
            "i.png": "",
        }

        def site(root):
            return links.check(root, links.pages(root, ".html", links.hypertext), [])

        self.assertEqual(self.run_in(pages, site), (0, "2 pages, 2 links, 0 broken\n"))
        code, printed = self.run_in(pages | {"b.html": "<h1>B</h1>"}, site)
        self.assertEqual((code, "b.html#there leads to an anchor" in printed), (1, True), printed)


if __name__ == "__main__":
    unittest.main(verbosity=0)
