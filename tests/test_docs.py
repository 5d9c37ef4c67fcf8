"""The documents keep up with the program and with each other."""

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest

import jaxlm

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "benchmarks", ROOT / "checkpoints" / "nietzsche")
    for path in folder.glob("*.md")
)
COMMANDS = {
    "train": ["jaxlm train", "python -m jaxlm train", "python train.py"],
    "sample": ["jaxlm sample", "python -m jaxlm sample", "python sample.py"],
    "write": ["jaxlm write", "python -m jaxlm write"],
    "evaluate": ["jaxlm evaluate", "python -m jaxlm evaluate"],
    "page": ["jaxlm page", "python -m jaxlm page"],
    "runs": ["jaxlm runs", "python -m jaxlm runs"],
    "plot": ["jaxlm plot", "python -m jaxlm plot"],
    "export": ["jaxlm export", "python -m jaxlm export"],
    "import": ["jaxlm import", "python -m jaxlm import"],
}
"""How each command is typed."""

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(text, language):
    """The code blocks of a document in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shell_commands(text):
    """The commands of a document's shell blocks, as lists of words without their comments."""
    for block in blocks(text, "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            for command in " ".join(map(shlex.quote, words)).split(" '&&' "):
                yield shlex.split(command)


def own_commands(text):
    """(command, arguments) of those in a document that are jaxlm's, in shell blocks or between backticks."""
    spans = [shlex.split(span) for span in re.findall(r"`([^`\n]+)`", text) if span.count('"') % 2 == 0]
    for words in [*shell_commands(text), *spans]:
        line = " ".join(words).removeprefix("nohup ")
        for command, spellings in COMMANDS.items():
            for spelling in spellings:
                if f"{line} ".startswith(f"{spelling} "):
                    yield command, line.removeprefix(spelling).split()


def anchors(text):
    """The names by which GitHub links to a document's headings."""
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match("https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@each_document
def test_commands_take_the_options_that_they_are_shown_with(path):
    sections = dict(re.findall(r"(?ms)^## `jaxlm (\w+).*?\n(.*?)(?=^## |\Z)", read("docs/options.md")))
    known = {name: set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", body)) for name, body in sections.items()}
    for command, arguments in own_commands(path.read_text(encoding="utf-8")):
        # The text of a value begins with no dash here.
        asked = {argument.split("=")[0] for argument in arguments if re.match("--?[a-z]", argument)}
        assert asked <= known[command] | {"--help"}, (command, arguments)


def test_documents_show_commands():
    documents = [read("README.md"), read("docs/exchange.md")]
    assert {command for document in documents for command, _ in own_commands(document)} == set(COMMANDS)


@each_document
def test_names_of_the_package_exist(path):
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"\bjaxlm\.([A-Za-z]\w*)", "\n".join([*blocks(text, "python"), *re.findall("`[^`\n]+`", text)]))
    modules = {file.stem for file in (ROOT / "jaxlm").iterdir()}
    for name in set(named) - modules:
        assert hasattr(jaxlm, name), name


def test_the_table_of_the_book_names_what_is_there():
    rows = re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", read("README.md"))
    assert len(rows) > 8
    for file, names in rows:
        source = read(f"jaxlm/{file}")
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^(?:def|class) {name}\b", source, re.MULTILINE), (file, name)


def test_the_korean_readme_has_only_commands_of_the_readme():
    commands = [command for block in blocks(read("README.ko.md"), "sh") for command in block.splitlines()]
    english = [re.sub(r"\s+#.*", "", line) for block in blocks(read("README.md"), "sh") for line in block.splitlines()]
    assert len(commands) > 5
    assert [command for command in commands if command not in english] == []


def test_ci_finds_the_tests_command_in_the_readme():
    line = next(line for line in read("README.md").splitlines() if "python -m pytest" in line)
    assert line == (
        "python3 -m venv .venv && . .venv/bin/activate && python -m pip install -e '.[test]' && python -m pytest"
    )


def test_the_picture_shows_what_is_recorded():
    # Otherwise run: python benchmarks/picture.py
    assert runpy.run_path(str(ROOT / "benchmarks" / "picture.py"))["svg"]() == read("docs/learning.svg")


def executed(path):
    """The block of a document that a test runs."""
    [code] = re.findall(r"<!-- A test runs this block. -->\n\n```python\n(.*?)```", read(path), re.DOTALL)
    return code


def test_the_weights_load_into_plain_flax(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text("to be or not to be, that is the question. " * 50)
    jaxlm.train("my.txt", run="my-book", epochs=1, hidden=8, layers=2, reporter=None)
    found: dict = {}
    exec(executed("docs/exchange.md"), found)
    scores = found["log_probabilities"][np.arange(11), found["tokens"][1:]]
    np.testing.assert_allclose(scores, jaxlm.load("my-book").score("to be or not"), atol=1e-5)


def test_a_training_loop_of_ones_own_learns(tmp_path, monkeypatch):
    code = executed("docs/python.md")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text("to be or not to be, that is the question. " * 50)
    found: dict = {}
    exec(code, found)
    assert found["loss"] < 0.8 < np.log(len(found["vocab"]))
    assert found["logits"].shape == (1, 32, len(found["vocab"]))


def test_the_citation_is_of_this_version():
    assert f"version: {jaxlm.__version__}\n" in read("CITATION.cff")
