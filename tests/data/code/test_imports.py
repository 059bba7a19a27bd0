"""Imports and what they lead to: Python's own parser and finder as oracles, small repositories in every language."""

import ast
import functools
import importlib.machinery
import itertools
import json
import posixpath
import re
import sysconfig
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilm_ray.data.code.files.forms import convert
from ilm_ray.data.code.languages import lexical
from ilm_ray.data.code.languages.facts import Facts, Import, ModuleIndex
from ilm_ray.data.code.languages.imports import LANGUAGES, MANIFESTS, dependencies, find_facts


def graph_of(texts: dict[str, str]) -> dict[str, set[str]]:
    """Edges of the files that have any."""
    index = ModuleIndex({path: find_facts(path, text) for path, text in texts.items()})
    return {path: files for path in texts if (files := dependencies(path, index))}


@functools.cache
def standard_library() -> dict[str, str]:
    root, texts = Path(sysconfig.get_path("stdlib")), dict[str, str]()
    for path in sorted(root.rglob("*.py")):
        if not {"site-packages", "test", "tests", "idle_test"} & set(path.parts):
            texts[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8")
    return texts


@functools.cache
def _facts() -> dict[str, Facts]:
    return {path: find_facts(path, text) for path, text in standard_library().items()}


@functools.cache
def _parsed(path: str) -> set[Import]:
    imports = set()
    for node in ast.walk(ast.parse(standard_library()[path])):
        if isinstance(node, ast.Import):
            imports |= {Import(item.name) for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports |= {Import("." * node.level + (node.module or ""), item.name) for item in node.names}
    return imports


def _located(path: str, item: Import, root: Path) -> str | None:
    """The file that Python itself would import, if it lies in the tree."""
    package = posixpath.dirname(path).split("/")
    dotted = item.module.lstrip(".")
    if up := len(item.module) - len(dotted):
        dotted = ".".join([*package[: len(package) - up + 1], *filter(None, [dotted])])
    for name in (f"{dotted}.{item.name}", dotted) if item.name not in ("", "*") else (dotted,):
        search, spec = [str(root)], None
        for depth, _ in enumerate(name.split(".")):
            spec = importlib.machinery.PathFinder.find_spec(".".join(name.split(".")[: depth + 1]), search)
            search = list(spec.submodule_search_locations or ()) if spec else []
            if spec is None:
                break
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            return Path(spec.origin).relative_to(root).as_posix()
    return None


@pytest.mark.long
def test_imports_of_the_standard_library_agree_with_its_parser() -> None:
    right = seen = wanted = 0
    for path, facts in _facts().items():
        imports, parsed = {*facts.imports, *(item for _, item in facts.handed_on)}, _parsed(path)
        right, seen, wanted = right + len(imports & parsed), seen + len(imports), wanted + len(parsed)
    assert wanted > 4000
    assert right / seen >= 0.98
    assert right / wanted >= 0.98


def test_a_notebook_needs_what_its_cells_import() -> None:
    cells = [
        {"cell_type": "markdown", "source": "import tool.spare\n\n```sh\nfrom tool import spare\n```"},
        {"cell_type": "code", "source": "%matplotlib inline\nfrom tool import run", "outputs": []},
        {"cell_type": "code", "source": "run()", "outputs": [{"output_type": "stream", "text": "import tool.spare"}]},
    ]
    book = convert(json.dumps({"cells": cells, "metadata": {}}), "jupyter").text
    package = {"tool/__init__.py": "from tool.core import run\n", "tool/core.py": "def run(): pass\n"}
    graph = graph_of({"docs/use.ipynb": book, "tool/spare.py": "", **package})
    assert graph == {"docs/use.ipynb": {"tool/__init__.py", "tool/core.py"}}


@pytest.mark.long
def test_edges_of_the_standard_library_agree_with_pythons_finder() -> None:
    root, texts, index = Path(sysconfig.get_path("stdlib")), standard_library(), ModuleIndex(_facts())
    located = functools.cache(functools.partial(_located, root=root))
    edges, wanted = set[tuple[str, str]](), set[tuple[str, str]]()
    for path in texts:
        folder = posixpath.dirname(path)
        if path.endswith("__init__.py") or (folder and posixpath.join(folder, "__init__.py") not in texts):
            continue  # batched imports differ on purpose; a script's own folder is on its path
        edges |= {(path, target) for target in dependencies(path, index)}
        wanted |= {(path, target) for item in _parsed(path) if (target := located(path, item)) in texts}
    wanted = {(path, target) for path, target in wanted if path != target}
    assert len(wanted) > 1000
    assert len(edges & wanted) / len(wanted) >= 0.98
    # What the finder does not see are files behind the names that an __init__.py hands on.
    behind = {(p, t) for p, t in edges - wanted if posixpath.join(posixpath.dirname(t), "__init__.py") in texts}
    assert len(edges & wanted) / len(edges - behind) >= 0.98


@pytest.mark.parametrize(
    ("path", "text", "wanted"),
    [
        ("p/a.py", "from . import b, missing\nfrom .sub.c import x", {"p/b.py", "p/__init__.py", "p/sub/c.py"}),
        ("p/sub/c.py", "from .. import b  # note\nimport p.b as q, top", {"p/b.py", "top.py"}),
        ("p/a.py", "from p import (\n  b,  # one\n  sub,\n)", {"p/b.py", "p/sub/__init__.py"}),
        ("p/a.py", "from p import \\\n  b, \\\n  sub", {"p/b.py", "p/sub/__init__.py"}),
        (
            "p/a.py",
            "if TYPE_CHECKING:\n    import p.b\ntry: import top\nexcept ImportError: pass",
            {"p/b.py", "top.py"},
        ),
        ("p/b.py", "import b", set()),  # a package's folder is on no path
        ("top.py", '"""\nimport p.b\n"""\nx = "import p.b"  # import p.b', set()),
        ("p/__init__.py", "from .a import used, unused\nfrom .b import *\nprint(used)\n__all__ = ['x']", {"p/a.py"}),
        ("p/__init__.py", "from .a import name\n__all__ = ['name']", set()),
    ],
)
def test_python(path: str, text: str, wanted: set[str]) -> None:
    files = dict.fromkeys(["p/__init__.py", "p/a.py", "p/b.py", "p/sub/__init__.py", "p/sub/c.py", "top.py"], "")
    assert graph_of({**files, path: text}).get(path, set()) == wanted


def test_what_a_package_hands_on_is_found_behind_it() -> None:
    assert graph_of(
        {
            "p/__init__.py": "from .a import first\nfrom .b import *\nfrom .q import deep",
            "p/a.py": "def first(): pass",
            "p/b.py": "SECOND = 2",
            "p/q/__init__.py": "from .r import deep",
            "p/q/r.py": "class deep: pass",
            "one.py": "from p import first",
            "two.py": "from p import SECOND",
            "three.py": "from p import deep",
            "four.py": "from p import *\nprint(SECOND)",
            "src/lib/__init__.py": "",
            "tests/test_lib.py": "import src.lib",
            "src/tests/t.py": "import lib",
        }
    ) == {
        "one.py": {"p/__init__.py", "p/a.py"},
        "two.py": {"p/__init__.py", "p/b.py"},
        "three.py": {"p/__init__.py", "p/q/__init__.py", "p/q/r.py"},
        "four.py": {"p/__init__.py", "p/b.py"},
        "tests/test_lib.py": {"src/lib/__init__.py"},
        "src/tests/t.py": {"src/lib/__init__.py"},
    }


REPOSITORIES: dict[str, tuple[dict[str, str], dict[str, set[str]]]] = {
    "c": (
        {
            "src/x.c": (
                '#include "x.h"\n#include <lib/y.h>\n# include <stdio.h>\n// #include "no.h"\n/*\n#include "no.h"\n*/'
            ),
            "src/x.h": 'const char *s = "\\\n#include \\"no.h\\"";',
            "src/no.h": "",
            "include/lib/y.h": "#pragma once\nint y(int);",
            "deep/er/z.hpp": "struct Z {};",
            "other/stdio.h": "",
            "app/main.cpp": '#include "er/z.hpp"\n#include "../src/x.h"\n',
        },
        {"src/x.c": {"src/x.h", "include/lib/y.h"}, "app/main.cpp": {"deep/er/z.hpp", "src/x.h"}},
    ),
    "umbrella header": (
        {
            "all.h": (
                "#ifndef ALL_H\n"
                "#define ALL_H\n"
                "/* everything */\n"
                '#include "one.h"\n'
                '#include "two.h"\n'
                '#include "three.h"\n'
                "#endif"
            ),
            "one.h": "typedef struct { int a; } One;",
            "two.h": "#define TWO 2\nenum { ALPHA, BETA = 3 };",
            "three.h": "extern int three(void);",
            "use.c": '#include "all.h"\nOne one = {BETA};',
        },
        {"use.c": {"all.h", "one.h", "two.h"}},
    ),
    "java": (
        {
            "src/main/java/a/b/One.java": "package a.b;\nimport a.c.Two;\nimport static a.c.Tools.help;\nclass One {}",
            "src/main/java/a/c/Two.java": 'package a.c;\npublic class Two { String s = "import a.b.One;"; }',
            "src/main/java/a/c/Tools.java": "package a.c;\nimport java.util.*;\nclass Tools { static int help; }",
            "src/main/java/a/App.java": "package a;\nimport a.c.*;\n// import a.b.One;\nclass App { Two two; }",
        },
        {
            "src/main/java/a/b/One.java": {"src/main/java/a/c/Two.java", "src/main/java/a/c/Tools.java"},
            "src/main/java/a/App.java": {"src/main/java/a/c/Two.java"},
        },
    ),
    "kotlin": (
        {
            "k/Model.kt": "package org.k\ndata class Model(val x: Int)\nfun String.shout() = this",
            "k/Extra.kt": "package org.k\nobject Extra",
            "app/Main.kt": "package app\nimport org.k.Model as M\nimport org.k.shout\nfun main() {}",
            "app/All.kt": "package app\nimport org.k.*\nval e = Extra",
            "app/J.java": "package app;\nimport org.k.Model;\nclass J {}",
        },
        {"app/Main.kt": {"k/Model.kt"}, "app/All.kt": {"k/Extra.kt"}, "app/J.java": {"k/Model.kt"}},
    ),
    "scala": (
        {
            "a/One.scala": "package org.a\nclass One\nobject Same",
            "b/Two.scala": "package org\npackage b\ntrait Two",
            "Use.scala": "package org.c\nimport org.a.{One => Uno, Same}, org.b.Two\nclass Use",
            "Rel.scala": "package org\nimport a._\nimport b.Two\nobject Rel { val s = Same }",
        },
        {"Use.scala": {"a/One.scala", "b/Two.scala"}, "Rel.scala": {"a/One.scala", "b/Two.scala"}},
    ),
    "csharp": (
        {
            "Core/Model.cs": "namespace App.Core;\npublic record Model(int X);",
            "Core/Unused.cs": "namespace App.Core { class Unused {} }",
            "Main.cs": (
                "using System;\n"
                "using App.Core;\n"
                "using static App.Core.Helper;\n"
                'class P { Model m; string s = @"using X;"; }'
            ),
            "Core/Helper.cs": "namespace App.Core { static class Helper { } }",
            "Alias.cs": "using M = App.Core.Model;\nclass A { void F() { using var x = Open(); } }",
        },
        {"Main.cs": {"Core/Model.cs", "Core/Helper.cs"}, "Alias.cs": {"Core/Model.cs"}},
    ),
    "php": (
        {
            "src/Http/Client.php": "<?php\nnamespace Acme\\Http;\nfinal class Client {}",
            "src/Http/Code.php": "<?php\nnamespace Acme\\Http;\nenum Code {}",
            "index.php": (
                "<p>don't require 'no.php'</p><?php\n"
                "use Acme\\Http\\Client as C;\n"
                "# use Acme\\Http\\Code;\n"
                "require_once __DIR__ . '/lib/boot.php';"
            ),
            "lib/boot.php": "<?php\nuse Acme\\Http\\{Client, Code};\ninclude 'helpers.php';",
            "lib/helpers.php": "<?php function f() { return function () use ($x) {}; }",
            "no.php": "<?php",
        },
        {
            "index.php": {"src/Http/Client.php", "lib/boot.php"},
            "lib/boot.php": {"src/Http/Client.php", "src/Http/Code.php", "lib/helpers.php"},
        },
    ),
    "go": (
        {
            "go.mod": "module example.org/app\n\ngo 1.21\n",
            "util/a.go": "package util\n\nfunc Help() {}\n",
            "util/b.go": "package util\n\ntype (\n\tThing struct{}\n)\n",
            "util/b_test.go": "package util\n\nfunc Help2() {}\n",
            "main.go": (
                "package main\n"
                "\n"
                "import (\n"
                '\t"fmt"\n'
                '\tu "example.org/app/util" // util\n'
                ")\n"
                "\n"
                "var s = `\n"
                'import "example.org/app/reg"\n'
                "`\n"
                "\n"
                "func main() { fmt.Println(u.Thing{}) }\n"
            ),
            "reg/r.go": "package reg\n\nfunc init() {}\n",
            "cmd/x.go": 'package main\n\nimport _ "example.org/app/reg"\n',
        },
        {"main.go": {"util/b.go"}, "cmd/x.go": {"reg/r.go"}},
    ),
    "go without go.mod": (
        {
            "pkg/a.go": "package pkg\n\nfunc Help() {}\n",
            "m.go": 'package m\n\nimport "github.com/o/r/pkg"\n\nvar x = pkg.Help()\n',
        },
        {"m.go": {"pkg/a.go"}},
    ),
    "javascript": (
        {
            "src/a.js": (
                "import b, { c as d } from './b.js'\nconst e = require(\"../lib\"), r = /['\"]/\nimport('./lazy')"
            ),
            "src/b.ts": "import type { T } from './types'\n// import './no'\nexport const s = `import './no'`",
            "src/types.d.ts": "export type T = 1",
            "src/no.js": "",
            "src/lazy.mjs": "export default 1",
            "lib/index.js": "exports.x = 1",
            "web/x.tsx": "import {\n  used,\n} from '../bar'\nimport '@app/b'\nimport { k } from '@scope/kit'",
            "bar/index.ts": "export { used } from './used'\nexport * from './star'\nexport { other } from './other'",
            "bar/used.ts": "export const used = 1",
            "bar/other.ts": "export const other = 1",
            "bar/star.ts": "export function shine() {}",
            "web/y.js": "import { shine } from '../bar'",
            "tsconfig.json": '{"compilerOptions": { /* short */ "baseUrl": ".", "paths": {"@app/*": ["src/*"],}}}',
            "kit/package.json": '{"name": "@scope/kit", "main": "./dist/index.js"}',
            "kit/src/index.ts": "export const k = 1",
        },
        {
            "src/a.js": {"src/b.ts", "lib/index.js", "src/lazy.mjs"},
            "src/b.ts": {"src/types.d.ts"},
            "web/x.tsx": {"bar/index.ts", "bar/used.ts", "src/b.ts", "kit/src/index.ts"},
            "web/y.js": {"bar/index.ts", "bar/star.ts"},
        },
    ),
    "rust": (
        {
            "Cargo.toml": '[package]\nname = "my-app"',
            "src/lib.rs": "pub mod a;\nmod util;\npub use util::help;\nfn f() { util::help() }",
            "src/a.rs": (
                "mod inner;\n"
                "use crate::util::{self, help as h};\n"
                "use super::b::B;\n"
                "/* use crate::b; */\n"
                "mod tests { use super::*; }"
            ),
            "src/a/inner.rs": 'use super::super::util;\nconst S: &str = r#"use crate::b;"#;',
            "src/util/mod.rs": "use std::fmt;\npub fn help<'a>(c: char) -> bool { c == '\"' }",
            "src/b.rs": "pub struct B;\nfn g() { crate::a::run() }",
            "tests/t.rs": "use my_app::help;",
        },
        {
            "src/lib.rs": {"src/util/mod.rs"},
            "src/a.rs": {"src/util/mod.rs", "src/b.rs"},
            "src/a/inner.rs": {"src/util/mod.rs"},
            "src/b.rs": {"src/a.rs"},
            "tests/t.rs": {"src/lib.rs", "src/util/mod.rs"},
        },
    ),
    "ruby": (
        {
            "lib/app.rb": (
                "require 'app/version'\nrequire_relative 'app/core'\nrequire 'json'\nautoload :Late, 'app/late'"
            ),
            "lib/app/version.rb": "V = \"require 'app/core'\"",
            "lib/app/core.rb": "=begin\nrequire 'app/version'\n=end\ntext = <<~END\n  require 'app/version'\nEND",
            "lib/app/late.rb": "class Late; end",
            "spec/a_spec.rb": "require 'app'\nLate.new",
            "bin/x.rb": "require File.expand_path('../../lib/app', __FILE__)",
        },
        {
            "lib/app.rb": {"lib/app/version.rb", "lib/app/core.rb"},
            "spec/a_spec.rb": {"lib/app.rb", "lib/app/late.rb"},
            "bin/x.rb": {"lib/app.rb"},
        },
    ),
    "swift": (
        {
            "Sources/Core/Model.swift": "public struct Model {}",
            "Sources/Core/Other.swift": "public class Other {}",
            "Sources/App/main.swift": "import Foundation\nimport Core\n// Other\nlet m = Model()",
            "Tests/CoreTests/T.swift": "@testable import Core\nlet o: Other",
        },
        {
            "Sources/App/main.swift": {"Sources/Core/Model.swift"},
            "Tests/CoreTests/T.swift": {"Sources/Core/Other.swift"},
        },
    ),
}


@pytest.mark.parametrize("name", REPOSITORIES)
def test_small_repositories(name: str) -> None:
    texts, wanted = REPOSITORIES[name]
    assert graph_of(texts) == wanted


_SYNTAXES = [
    value for value in vars(lexical).values() if isinstance(value, re.Pattern) and "string" in value.groupindex
]
_SNIPPETS = st.lists(
    st.sampled_from(
        [
            "import a\n",
            "'",
            '"',
            '"""',
            "/*",
            "*/",
            "//",
            "#",
            "\n",
            "`",
            "\\",
            "<?php ",
            "?>",
            "{",
            "}",
            "use a::b;",
            "r#",
            "from .a import (b,",
            ")",
            "=begin\n",
            "<<~X\n",
            "X\n",
        ]
    ),
    max_size=30,
).map("".join)


@given(_SNIPPETS | st.text(max_size=60))
def test_broken_text_keeps_its_length_and_finds_no_error(text: str) -> None:
    for syntax in _SYNTAXES:
        code = lexical.code_of(text, syntax)
        assert len(code.text) == len(code.bare) == len(text)
        assert [i for i, c in enumerate(text) if c == "\n"] == [i for i, c in enumerate(code.bare) if c == "\n"]
    paths = [f"a/x{suffix}" for suffix in LANGUAGES] + [f"a/{name}" for name in MANIFESTS]
    facts = {path: find_facts(path, text) for path in paths}
    assert {path: Facts.of_json(json.loads(json.dumps(file_facts))) for path, file_facts in facts.items()} == facts
    index = ModuleIndex(facts)
    for path in paths:
        assert dependencies(path, index) <= facts.keys() - {path}


def test_no_line_takes_quadratic_time() -> None:
    paths = ["a.py", "a.ts", "a.cpp", "a.java", "a.go", "a.rs", "a.rb", "a.php", "a.cs", "a.swift"]
    units = [
        "=/[",
        "=/",
        "/*",
        '"',
        "`",
        "'''",
        "import {",
        "require(",
        "#include ",
        "mod ",
        'R"(',
        "<<A\n",
        "?>",
        "#",
        "{",
    ]
    started = time.process_time()
    for path, unit in itertools.product(paths, units):
        find_facts(path, unit * (12_000 // len(unit)))
    assert time.process_time() - started < 20, "150 files of 12 kB"
