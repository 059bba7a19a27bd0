"""Imports by declared package or namespace: Java, Kotlin, Scala, C# and PHP's `use`; PHP's includes by path.

Classes of the importer's own package are visible without an import and make no edge.
"""

import posixpath
import re
from collections.abc import Iterator

from ilm_ray.data.code.languages.facts import Facts, Import, ModuleIndex, Target, above, names, words
from ilm_ray.data.code.languages.lexical import CSHARP, JVM, PHP, Code, code_of

_PACKAGE = re.compile(r"^[ \t]*package[ \t]+([\w.`]+)", re.MULTILINE)
_TYPE = (
    r"\b(?:class|interface|enum|record|object|trait|typealias|type|struct|delegate[ \t]+[\w<>\[\], ?.]{1,200})"
    r"[ \t]+(\w+)"
)
_JVM_DEFINITION = re.compile(
    rf"{_TYPE}|^(?:[\w@]+[ \t]+)*?(?:fun|val|var|def"
    rf"|given)[ \t]+(?:<[^>\n]{{0,200}}>[ \t]*)?(?:[\w<>?, ]{{1,200}}\.)?(\w+)",
    re.MULTILINE,
)
_JAVA = re.compile(r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]+?)(\.\*)?[ \t]*;", re.MULTILINE)
_KOTLIN = re.compile(r"^[ \t]*import[ \t]+([\w.`]+?)(\.\*)?(?:[ \t]+as[ \t]+\w+)?[ \t]*;?[ \t]*$", re.MULTILINE)
_SCALA = re.compile(r"^[ \t]*import[ \t]+((?:[\w.`]+(?:\{[^}]*\}|\*)?(?:[ \t]*,[ \t]*)?)+)", re.MULTILINE)
_SCALA_ITEM = re.compile(r"(?<![\w.`])([\w.`]+?)\.?(?:\{([^}]{0,2000}+)\}|(?<=\.)(_|\*)|(?=[,\s]|$))(?:,|\s|$)*")
_USING = re.compile(
    r"^[ \t]*(?:global[ \t]+)?using[ \t]+(?:static[ \t]+)?(?:\w+[ \t]*=[ \t]*)?(?:global::)?"
    r"([\w.]+)[ \t]*(?:<[^;\n]*)?;",
    re.MULTILINE,
)
_NAMESPACE = re.compile(r"^[ \t]*namespace[ \t]+([\w.]+)", re.MULTILINE)
_CSHARP_DEFINITION = re.compile(rf"{_TYPE}|\brecord[ \t]+(?:class|struct)[ \t]+(\w+)")
_PHP_NAMESPACE = re.compile(r"^[ \t]*namespace[ \t]+([\w\\]+)", re.MULTILINE)
_PHP_USE = re.compile(r"^[ \t]*use[ \t]+(?:(?:function|const)[ \t]+)?([\w\\]+[^;(]{0,5000}+);", re.MULTILINE)
_PHP_DEFINITION = re.compile(
    r"^[ \t]*(?:(?:abstract|final|readonly)[ \t]+)*(?:class|interface|trait|enum|function)[ \t]+(\w+)", re.MULTILINE
)
_PHP_INCLUDE = re.compile(
    r"\b(?:require|include)(?:_once)?\b[\s(]*(?:(?:__DIR__|dirname\([ \t]*__FILE__[ \t]*\))[ \t]*\.[ \t]*)?"
    r"['\"]([^'\"\n]+)['\"]"
)


def find_java(path: str, text: str) -> Facts:
    """Imports, package and declared names of a Java file; `import a.b.*` names a whole package."""
    code = code_of(text, JVM)
    imports = [Import(match[1], "*" if match[2] else "") for match in code.find(_JAVA)]
    return _jvm_facts(path, code, imports, ".".join(_PACKAGE.findall(code.bare)[:1]))


def find_kotlin(path: str, text: str) -> Facts:
    """Kotlin; functions and properties of a file's top level can be imported too."""
    code = code_of(text, JVM)
    imports = [Import(match[1].replace("`", ""), "*" if match[2] else "") for match in code.find(_KOTLIN)]
    return _jvm_facts(path, code, imports, ".".join(_PACKAGE.findall(code.bare)[:1]).replace("`", ""))


def find_scala(path: str, text: str) -> Facts:
    """Scala, where several `package` lines nest and a selector in braces names several things."""
    code = code_of(text, JVM)
    imports = list[Import]()
    for statement in code.find(_SCALA):
        for module, selectors, wildcard in _SCALA_ITEM.findall(statement[1]):
            if wildcard:
                imports.append(Import(module, "*"))
            elif not selectors:
                imports.append(Import(module))
            for selector in selectors.split(",") if selectors else ():
                name = re.split(r"=>|\bas\b", selector)[0].strip()
                imports.append(Import(module, "*") if name in ("_", "*") else Import(f"{module}.{name}"))
    package = ".".join(name for name in _PACKAGE.findall(code.bare) if name != "object")
    return _jvm_facts(path, code, imports, package)


def _jvm_facts(path: str, code: Code, imports: list[Import], package: str) -> Facts:
    stem = posixpath.splitext(posixpath.basename(path))[0]
    defines = sorted({stem, *names(_JVM_DEFINITION, code.bare)})
    return Facts(imports, [], [package or _folder_package(path)], defines, words(code.bare))


def _folder_package(path: str) -> str:
    """For a file that declares no package: its folders below the source folder."""
    parts = posixpath.dirname(path).split("/")
    roots = [i for i, part in enumerate(parts) if part in ("java", "kotlin", "scala", "src")]
    return ".".join(parts[roots[-1] + 1 if roots else 0 :])


def find_csharp(path: str, text: str) -> Facts:
    """C#: a `using` names a namespace, seldom a type."""
    code = code_of(text, CSHARP)
    imports = [Import(match[1], "*") for match in code.find(_USING)]
    return Facts(imports, [], _NAMESPACE.findall(code.bare), names(_CSHARP_DEFINITION, code.bare), words(code.bare))


def find_php(path: str, text: str) -> Facts:
    """PHP. A class file declares the namespace that PSR-4 derives from its folder."""
    code = code_of(text, PHP)
    imports = [Import(f"./{match[1].lstrip('/')}") for match in code.find(_PHP_INCLUDE)]
    for statement in _PHP_USE.findall(code.bare):
        prefix, _, group = statement.partition("{")
        for item in (group.rstrip("} \t\n") or prefix).split(","):
            name = re.split(r"\s+as\s+", item.strip(), flags=re.IGNORECASE)[0].split(" ")[-1]
            imports.append(Import((f"{prefix.strip()}{name}" if group else name).strip("\\").replace("\\", "."), "*"))
    packages = [name.replace("\\", ".") for name in _PHP_NAMESPACE.findall(code.bare)] or [""]
    return Facts(imports, [], packages, names(_PHP_DEFINITION, code.bare), words(code.bare))


def targets(user: str, path: str, item: Import, index: ModuleIndex) -> Iterator[Target]:
    """Everything used of a package, or the files that define the first name below one."""
    suffix = posixpath.splitext(path)[1]
    if suffix == ".php" and item.module.startswith("./"):
        candidates = (posixpath.join(folder, item.module) for folder in above(posixpath.dirname(path)))
        if included := index.first(candidates):
            yield Target(included)
        return
    family = _FAMILIES[suffix]
    enclosing = [""]
    if suffix in (".scala", ".sc"):  # an import may go on from any package around it
        package = index.facts[path].packages[0].split(".")
        enclosing += [".".join(package[:end]) + "." for end in range(len(package), 0, -1)]
    for around in enclosing:
        parts = f"{around}{item.module}".split(".")
        group = [f for f in index.package(".".join(parts)) if f.endswith(family)]
        if item.name == "*" and group:
            yield from index.used(user, group)
            return
        for end in range(len(parts) - 1, -1, -1):
            inside = [f for f in index.package(".".join(parts[:end])) if f.endswith(family)]
            if defining := [f for f in inside if parts[end] in index.defines(f)]:
                yield from map(Target, defining)
                return


_JVM_SUFFIXES = (".java", ".kt", ".kts", ".scala", ".sc")
_FAMILIES = {**dict.fromkeys(_JVM_SUFFIXES, _JVM_SUFFIXES), ".cs": (".cs",), ".php": (".php",)}
