"""The documentation says what the sources say.

A block between ``<!-- from: SOURCE -->`` and ``<!-- end -->`` is a copy; ``SOURCE`` is one of

    file PATH                          a whole file
    source PATH NAME...                top-level functions and classes of a Python file, by name
    explain LOSS SECTION...            what ``lossgen explain LOSS`` prints, cut to these sections:
                                       "summary" or a stage, with ``:label,label`` cut to lines
    catalogue                          the specs as a table
    words                              the words that stand for a formula, as a table
    properties                         what ``lossgen verify`` checks, as a table
    measured speed|scaling|linear      what benchmarks/results/cpu.json holds, as a table

    python -m tests.test_docs --update     writes the copies anew

Examples at a Python prompt are run, specs are loaded, commands are looked up in the command line's
own tables, and every rule, template variable and word of the language must be in its document.
"""

from __future__ import annotations

import argparse
import ast
import doctest
import json
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from lossgen import paths

ROOT = paths.PACKAGE.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"<!-- from: (?P<source>.+?) -->\n(?P<text>.*?)<!-- end -->\n", re.DOTALL)
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?P<path>[^)#:]*)(?P<anchor>#[^)]*)?\)")
QUOTED_PATH = re.compile(
    r"`((?:lossgen|templates|specs|generated|tests|docs|benchmarks|examples)/[\w./*{},-]*)`"
)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ------------------------------------------------------------------------------- the sources
def fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


def file(path: str) -> str:
    language = {".yaml": "yaml", ".py": "python"}.get(Path(path).suffix, "text")
    return fenced((ROOT / path).read_text(encoding="utf-8"), language)


def source(path: str, *names: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return fenced("\n\n\n".join(found[name] for name in names), "python")


@cache
def explained(loss: str) -> dict[str, list[str]]:
    """Sections of the derivation: "summary" without the time each pass took, and the stages."""
    from lossgen import explain

    head, *stages = explain(loss).split("\n== ")
    summary = [line for line in head.rstrip().splitlines() if not line.startswith("passes ")]
    rest = (stage.rstrip().split("\n") for stage in stages)
    return {"summary": summary, **{name: lines for name, *lines in rest}}


def explanation(loss: str, *sections: str) -> str:
    lines = [f"$ lossgen explain {loss}"]
    for section in sections:
        name, _, labels = section.partition(":")
        lines += [] if name == "summary" else ["", f"== {name}"]
        lines += cut(explained(loss)[name], labels.split(",") if labels else None)
    return fenced("\n".join(lines), "text")


def cut(lines: list[str], labels: list[str] | None) -> Iterator[str]:
    keep = labels is None
    for line in lines:
        if labels is not None and not line.startswith(" "):
            keep = line.split(" ")[0] in labels
        if keep:
            yield line


def catalogue() -> str:
    from lossgen.spec.load import load_spec

    lines = ["| name | loss of a row, or of a batch | reference |", "| --- | --- | --- |"]
    for name in paths.spec_names():
        spec = load_spec(paths.require_spec(name))
        terms = [f"{t.weight} * ({t.source})" if t.weight else t.source for t in spec.terms]
        if spec.batch:
            terms = [f"mean of {spec.formulas[spec.batch.rows].text}"] if spec.batch.rows else []
            terms.append(spec.batch.source)
        outputs = [f"{o.name} = {o.source}" for o in spec.outputs]
        formula = f"`{' + '.join(terms) or '; '.join(outputs)}`"
        if spec.let_sources:
            lets = ", ".join(f"`{k} = {v}`" for k, v in spec.let_sources.items())
            formula += f" with {lets}"
        cells = (f"[{name}](../specs/{name}.yaml)", formula, " ".join(spec.reference.split()))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def words() -> str:
    from lossgen.spec.definitions import DEFINED

    calls: dict[str, list[str]] = {}
    for word in DEFINED.values():
        calls.setdefault(word.formula, []).append(f"`{word.call}`")
    lines = ["| word | stands for |", "| --- | --- |"]
    lines += [f"| {', '.join(names)} | `{formula}` |" for formula, names in calls.items()]
    return "\n".join(lines) + "\n"


def properties() -> str:
    from lossgen.verify.properties import PROPERTIES

    lines = ["| property | what it says |", "| --- | --- |"]
    lines += [f"| `{p.name}` | {p.doc.rstrip('.')} |" for p in PROPERTIES]
    return "\n".join(lines) + "\n"


def measured(what: str) -> str:
    results = json.loads((ROOT / "benchmarks/results/cpu.json").read_text(encoding="utf-8"))
    table, tail = {"speed": speed, "scaling": scaling, "linear": linear}[what](results)
    head = f"|{'|'.join(['---', *['---:'] * (table[0].count('|') - 2)])}|"
    return "\n".join([table[0], head, *table[1:], *tail]) + "\n"


def speed(results: dict[str, Any]) -> tuple[list[str], list[str]]:
    sizes = f"N = {results['rows']}, V = {results['classes']}"
    lines = [f"| {sizes} | lossgen | eager composite | `torch.compile` of it | floor |"]
    for row in results["speed"]:
        cells = [f"{row[k]['ms']:.0f} ms (× {row[k]['times_lossgen']:.1f})" for k in RIVALS]
        lines.append(f"| `{row['loss']}` | {row['lossgen']['ms']:.0f} ms | {' | '.join(cells)} |")
    versions, load = results["versions"], results["load_average"]
    counts = sorted({row["rounds"] for row in results["speed"]})
    rounds = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
    return lines, [
        "",
        f"Medians of {rounds} interleaved rounds in one process; × is the median of the",
        f"ratios within a round, a sample {results.get('sample', 'the second of two calls')}.",
        f"{results['processor']}, {results['threads']} threads, load average",
        f"{load['before'][0]:.1f}; torch {versions['torch']}, {versions['compiler']};",
        f"{results['date']}.",
    ]


RIVALS = ("eager", "compiled", "floor")


def scaling(results: dict[str, Any]) -> tuple[list[str], list[str]]:
    points = results["scaling"]
    sizes = sorted({p["classes"] for p in points})
    lines = [f"| ns per logit | threads | {' | '.join(f'V = {v}' for v in sizes)} |"]
    for loss, threads in dict.fromkeys((p["loss"], p["threads"]) for p in points):
        own = {
            p["classes"]: p["ns"] for p in points if (p["loss"], p["threads"]) == (loss, threads)
        }
        cells = " | ".join(f"{own[v]:.2f}" for v in sizes)
        lines.append(f"| `{loss}` | {threads} | {cells} |")
    return lines, []


def linear(results: dict[str, Any]) -> tuple[list[str], list[str]]:
    found = results["linear"]
    sizes = ", ".join(
        f"{k} = {found['sizes'][n]}" for k, n in zip("NDV", found["sizes"], strict=True)
    )
    *rows, floor = found["candidates"]
    lines = [f"| {sizes} | time | ÷ the three products alone ({floor['ms']:.0f} ms) |"]
    lines += [f"| {r['name']} | {r['ms']:.0f} ms | {r['times_floor']:.2f} |" for r in rows]
    return lines, ["", f"Medians of {found['rounds']} rounds of the same run."]


SOURCES: dict[str, Callable[..., str]] = {
    "file": file,
    "source": source,
    "explain": explanation,
    "catalogue": catalogue,
    "words": words,
    "properties": properties,
    "measured": measured,
}


def written_anew(match: re.Match[str]) -> str:
    kind, *arguments = match["source"].split()
    text = SOURCES[kind](*arguments)
    return f"<!-- from: {match['source']} -->\n{text}<!-- end -->\n"


# ------------------------------------------------------------------------------- copies, examples
def blocks() -> Iterator[object]:
    for document in DOCUMENTS:
        for match in BLOCK.finditer(document.read_text(encoding="utf-8")):
            yield pytest.param(match, id=f"{short(document)}: {match['source']}")


@pytest.mark.parametrize("match", [*blocks()])
def test_copy_is_current(match):
    assert match[0] == written_anew(match), "run: python -m tests.test_docs --update"


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=short)


@each_document
def test_examples_run(document):
    text = document.read_text(encoding="utf-8")
    prompts = "\n".join(m["text"] for m in FENCE.finditer(text) if m["language"] == "pycon")
    test = doctest.DocTestParser().get_doctest(prompts, {}, short(document), short(document), 0)
    report: list[str] = []
    failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append).failed
    assert not failed, "".join(report)


@each_document
def test_specs_build(document):
    """The distillation of docs/language.md was refused for its accuracy."""
    from lossgen.compiler import compile_loss
    from lossgen.emit.render import render_module
    from lossgen.spec.load import load_text

    for fence in FENCE.finditer(document.read_text(encoding="utf-8")):
        if fence["language"] == "yaml":
            spec = load_text(fence["text"])
            if spec.name not in paths.spec_names():  # these are built by others
                render_module(compile_loss(spec))


@each_document
def test_links_and_paths_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for match in LINK.finditer(FENCE.sub("", text)):
        target = document.parent / match["path"] if match["path"] else document
        assert target.exists(), match[0]
        if match["anchor"]:
            assert match["anchor"][1:] in anchors(target), match[0]
    for match in QUOTED_PATH.finditer(text):
        for path in alternatives(match[1]):
            assert any(ROOT.glob(path)), f"{path} is not there"


def alternatives(path: str) -> Iterator[str]:
    """``a/{b,c}.py`` as ``a/b.py`` and ``a/c.py``."""
    head, brace, rest = path.rstrip("/").partition("{")
    choices, _, tail = rest.partition("}")
    yield from (f"{head}{choice}{tail}" for choice in choices.split(",")) if brace else [head]


def anchors(document: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


# ------------------------------------------------------------------------------- commands
def commands() -> Iterator[object]:
    for document in DOCUMENTS:
        for fence in FENCE.finditer(document.read_text(encoding="utf-8")):
            for line in fence["text"].splitlines() if fence["language"] == "sh" else ():
                words = shlex.split(line, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                    words = words[1:]
                if words:
                    yield pytest.param(words, id=f"{short(document)}: {' '.join(words)}")


@pytest.mark.parametrize("words", [*commands()])
def test_command_exists(words):
    program, *arguments = words
    known: dict[str, Callable[[list[str]], None]] = {
        "lossgen": check_lossgen,
        "make": check_make,
        "python": check_python,
        "pytest": check_paths,
        "bash": check_paths,
        "pip": lambda _: None,
    }
    known[program](arguments)


def check_lossgen(arguments: list[str]) -> None:
    from typer.main import get_command

    from lossgen.cli import app

    context_free = get_command(app)
    name, *rest = arguments
    command = context_free.commands[name]  # type: ignore[attr-defined]
    command.make_context(name, rest, resilient_parsing=False)


def check_make(arguments: list[str]) -> None:
    rules = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {a for a in arguments if "=" not in a} <= set(rules)


def check_python(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        path = Path(*arguments[1].split("."))
        assert (ROOT / f"{path}.py").is_file() or (ROOT / path / "__main__.py").is_file()
        return
    script = ROOT / arguments[0]
    text = script.read_text(encoding="utf-8")
    for flag in arguments[1:]:
        assert not flag.startswith("--") or f'"{flag}"' in text, flag


def check_paths(arguments: list[str]) -> None:
    for argument in arguments:
        assert argument.startswith("-") or "/" not in argument or (ROOT / argument).exists()


# ------------------------------------------------------------------------------- nothing left out
def template_variables() -> set[str]:
    texts = [p.read_text(encoding="utf-8") for p in sorted(paths.templates_dir().glob("*.jinja"))]
    code = "".join(re.findall(r"\{\{.*?\}\}|\{%.*?%\}", "".join(texts), re.DOTALL))
    return set(re.findall(r"\b(?:v|loss|c)\.[a-z_]+", code))


def named(document: str) -> set[str]:
    return set(re.findall(r"`([\w.]+)`", (ROOT / "docs" / document).read_text(encoding="utf-8")))


def test_every_template_variable_is_documented():
    assert not template_variables() - named("templates.md")


def test_every_rewrite_is_documented():
    from lossgen.passes.rules import RULES

    assert not {rule.name for rule in RULES} - named("rewrites.md")


def test_every_function_of_the_language_is_documented():
    from lossgen.spec.vocabulary import FUNCTIONS, LEAVES, SUGAR

    words = set(re.findall(r"\w+", (ROOT / "docs" / "language.md").read_text(encoding="utf-8")))
    assert not {*FUNCTIONS, *LEAVES, *SUGAR} - words


def test_documents_say_how_long_a_row_stays_on_chip():
    from lossgen.runtime.launch import config

    longest = max(2**k for k in range(4, 20) if config("fused", 2**k).one_tile)
    assert f"rows of up to {longest} classes" in (ROOT / "docs/benchmarks.md").read_text(
        encoding="utf-8"
    )


def test_readme_is_short():
    """It was 7,000 words, which nobody read to the end."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 2500


def test_readme_counts_the_catalogue():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"has {len(paths.spec_names())} losses" in text


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the documentation with the sources.")
    parser.add_argument("--update", action="store_true", help="write the copies anew")
    update = parser.parse_args().update
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        new = BLOCK.sub(partial(written_anew), text)
        if new != text:
            print(f"{'updated' if update else 'differs:'} {short(document)}")
            if update:
                document.write_text(new, encoding="utf-8")
    if update:
        from tests.sheets import update as sheets

        sheets()


if __name__ == "__main__":
    main()
