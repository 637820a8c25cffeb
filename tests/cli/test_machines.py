"""What other programs read of the command line: JSON, the schema of specs, completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from ruamel.yaml import YAML

from lossgen import paths
from lossgen.spec.model import SpecFile
from lossgen.spec.schema import json_schema


# ------------------------------------------------------------------------------- list
def test_list_fits_80_columns(lossgen, monkeypatch):
    """It had five columns as wide as the formulas, which a terminal broke into pieces."""
    monkeypatch.setenv("COLUMNS", "80")
    ran = lossgen("list")
    head, *lines = ran.out.splitlines()
    assert head.split() == ["name", "formula", "sweeps", "ulp:", "loss,", "gradient"]
    assert [line.split()[0] for line in lines] == list(paths.spec_names())
    assert max(map(len, lines)) <= 80


def test_list_is_whole_in_a_pipe(lossgen, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    assert "…" not in lossgen("list", "focal").out


def test_list_takes_words(lossgen):
    assert lossgen("list", "--names", "Zhang", "2018").out.split() == ["gce", "truncated_gce"]
    assert "kd_forward_kl" in lossgen("list", "--names", "teacher").out.split()
    ran = lossgen("list", "no such thing", "gce")
    assert (ran.code, ran.out, ran.err) == (1, "", "no loss has no such thing and gce\n")


def test_list_as_json(lossgen):
    found = json.loads(lossgen("list", "--json").out)
    assert [entry["name"] for entry in found] == list(paths.spec_names())
    for entry in found:
        assert {"title", "reference", "formula", "sweeps", "certificate", "spec"} <= set(entry)
    (gce,) = json.loads(lossgen("list", "generalized", "1805.07836", "--json").out)[-1:]
    assert gce["title"]


# ------------------------------------------------------------------------------- explain, doctor
def test_explain_as_json(lossgen, catalogue):
    found = json.loads(lossgen("explain", "first", "--json").out)
    text = lossgen("explain", "first").out
    assert found["name"] == "first"
    for key, value in found["summary"].items():
        assert f"{key:<12} {value}" in text
    for name, stage in found["stages"].items():
        assert f"== {name}\n{stage}" in text
    assert set(found["seconds"]) >= set(found["stages"])
    assert lossgen("explain", "first", "--json", "--latex").code == 2


def test_doctor_as_json(lossgen):
    ran = lossgen("doctor", "--json")
    found = json.loads(ran.out)
    assert found["ok"] == (ran.code == 0)
    assert "torch 2." in found["found"]["versions"]


# ------------------------------------------------------------------------------- schema
def problems(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "") -> list[str]:
    """What is wrong with a value: enough of JSON Schema for ours."""
    if "$ref" in schema:
        return problems(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, at)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            found = [problems(value, s, root, at) for s in schema[several]]
            return [] if [] in found else min(found, key=len)
    kinds = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
        "array": list,
        "object": dict,
    }
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        return [f"{at}: {value!r} is no {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r}"]
    if isinstance(value, list):
        items = enumerate(value)
        return [p for k, v in items for p in problems(v, schema["items"], root, f"{at}[{k}]")]
    if not isinstance(value, dict):
        return []
    known, rest = schema.get("properties", {}), schema.get("additionalProperties")
    wrong = [f"{at}.{key} is missing" for key in schema.get("required", ()) if key not in value]
    for key, entry in value.items():
        inner = known.get(key, rest)
        wrong += (
            [f"{at}.{key} is unknown"]
            if inner in (False, None)
            else problems(entry, inner, root, f"{at}.{key}")
        )
    return wrong


@pytest.mark.parametrize("name", paths.spec_names())
def test_schema_admits_the_catalogue(name):
    text = (paths.specs_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    schema = json_schema()
    assert problems(YAML(typ="safe", pure=True).load(text), schema, schema) == []


def test_schema_refuses_what_the_loader_refuses():
    schema = json_schema()
    parameter = {"default": 1, "domain": "[0, 1]"}
    assert problems({"name": "a", "transfrom": "x[y]"}, schema, schema) == [".transfrom is unknown"]
    assert problems({"transform": "x[y]"}, schema, schema) == [".name is missing"]
    assert problems({"name": "a", "inputs": {"t": {"kind": "rows"}}}, schema, schema)
    assert problems({"name": "a", "parameters": {"q": parameter}}, schema, schema) == []
    assert problems({"name": "a", "parameters": {"q": {**parameter, "of": 1}}}, schema, schema)


def test_schema_says_what_every_key_means(lossgen):
    schema = json.loads(lossgen("schema").out)
    assert schema == json_schema()
    assert set(schema["properties"]) == {
        field.alias or name for name, field in SpecFile.model_fields.items()
    }
    for model in (schema, *schema["$defs"].values()):
        assert model["description"]
        for name, entry in model["properties"].items():
            assert entry.get("description"), name


def test_schema_is_written(lossgen, tmp_path):
    file = tmp_path / "lossgen.json"
    assert lossgen("schema", "-o", file).out == f"wrote {file}\n"
    assert json.loads(file.read_text(encoding="utf-8")) == json_schema()


# ------------------------------------------------------------------------------- completion
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lossgen expl", {"explain"}),
        ("lossgen explain gc", {"gce"}),
        ("lossgen plot gce foc", {"focal"}),
        ("lossgen explain gce --stage di", {"differentiate"}),
    ],
)
def test_completion(line, offered):
    words = line.split()
    environment = {
        **os.environ,
        "_LOSSGEN_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    program = "import sys; from lossgen.cli import main; main(); "
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert set(ran.stdout.split()) == offered, ran.stderr
