"""The rooms and who may import whom, and how light the door is."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import laconic

SOURCE = Path(__file__).parents[1] / "src" / "laconic"
LOW = ("tasks", "train", "pruning", "distill", "factorize", "quantization", "storage", "deploy", "measure")
ALLOWED = {
    "core": {"core"},
    **{room: {"core", room} for room in LOW},
    "run": {"core", "run", "display", *LOW},
    "search": {"core", "run", "search", "display", "report.page", "report.facts", "report.text", *LOW},
    "report": {"core", "run.store", "run.following", "report"},
    "studies": {"core", "run", "search", "studies", *LOW},
}
# Third-party packages that core may import beside the standard library.
CORE_PACKAGES = {"torch", "numpy"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(room: str) -> list[Path]:
    return sorted((SOURCE / room).rglob("*.py"))


@pytest.mark.parametrize("room", [room for room in ALLOWED if (SOURCE / room).exists()])
def test_a_room_imports_only_what_is_below_it(room: str) -> None:
    for path in files(room):
        for name in imports(path):
            if name.startswith("laconic."):
                inside = name.removeprefix("laconic.")
                assert any(inside == ok or inside.startswith(f"{ok}.") for ok in ALLOWED[room]) or inside == "__version__", (
                    f"{path.name} imports {name}"
                )
            else:
                assert name.split(".")[0] != "laconic", f"{path.name} imports the public door"


def test_core_imports_torch_and_the_standard_library_only() -> None:
    for path in files("core"):
        for name in imports(path):
            top = name.split(".")[0]
            assert top in {"laconic", "__future__", *CORE_PACKAGES} or top in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_nothing_imports_the_command_line() -> None:
    for path in set(SOURCE.rglob("*.py")) - {*files("cli"), SOURCE / "__main__.py"}:
        assert not any(name.startswith("laconic.cli") for name in imports(path)), path


PICKLES = ("pickle", "cloudpickle", "dill", "joblib", "shelve")
# The child's side of a private pipe reads the task that its parent wrote a moment ago: no file, no network, nobody else's bytes.
MAY_UNPICKLE = {"run/isolation.py"}


def test_nothing_unpickles_but_the_childs_side_of_the_private_pipe() -> None:
    importing = {
        path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if any(name.split(".")[0] in PICKLES for name in imports(path))
    }
    assert importing == MAY_UNPICKLE
    loads = [line for line in (SOURCE / "run/isolation.py").read_text(encoding="utf-8").splitlines() if "cloudpickle.load" in line]
    assert len(loads) == 1


# Methods that read or write text in the locale's encoding unless they are told another; `open` does too, in a mode without b.
TEXT = ("read_text", "write_text", "fdopen", "TextIOWrapper", "NamedTemporaryFile")


def in_the_locales_encoding(call: ast.Call) -> bool:
    """Whether a call opens a file as text and names no encoding."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name != "open":
        return name in TEXT
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Name) and owner.id in ("os", "Artifact"):  # a handle of bytes; a folder
        return False
    place = 0 if owner is not None else 1  # Path.open(mode), open(path, mode)
    modes = (*call.args[place : place + 1], *(keyword.value for keyword in call.keywords if keyword.arg == "mode"))
    return not any("b" in str(mode.value) for mode in modes if isinstance(mode, ast.Constant))


@pytest.mark.parametrize("folder", ["src", "benchmarks", "examples"])
def test_text_files_are_utf8_whatever_the_locale(folder: str) -> None:
    found = []
    for path in sorted((SOURCE.parents[1] / folder).rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        found += [f"{path.name}:{call.lineno}" for call in calls if in_the_locales_encoding(call)]
    assert found == []


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("p.read_text()", True),
        ("p.read_text(encoding='utf-8')", False),
        ("open(p)", True),
        ("open(p, 'rb')", False),
        ("p.open('w')", True),
        ("p.open(mode='wb')", False),
        ("p.open('w', encoding='utf-8')", False),
        ("os.open(p, 1)", False),
    ],
)
def test_the_search_for_encodings_finds_them(code: str, caught: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert in_the_locales_encoding(call) is caught


# Code is spelled in American, identifiers and texts alike.
BRITISH = re.compile(
    r"colour|neighbour|behaviour|favour|labelled|modelled|cancelled|misspelt|\b_?(grey|centred?|towards|catalogue|artefact)\b|analys(e|ed|es|ing)\b|"
    r"(normal|quant|optim|general|initial|serial|special|recogn|summar|minim|maxim|regular|real|organ|character|token)is(e|ed|es|ing|ation|ations)\b",
    re.IGNORECASE,
)


def test_code_is_spelled_in_american() -> None:
    assert [
        f"{path.relative_to(SOURCE)}:{number}: {match[0]}"
        for path in sorted(SOURCE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in BRITISH.finditer(line)
    ] == []


def module_of(path: Path) -> str:
    """Return the dotted name of a module; of a package, that of its folder."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def dependencies(sources: dict[str, Path]) -> dict[str, set[str]]:
    """Return which module imports which, imports inside functions included; from a package comes what its `__init__` has, or the module of that name."""
    found: dict[str, set[str]] = {}
    for module, path in sources.items():
        names = {name if name in sources else name.rpartition(".")[0] for name in imports(path)}
        found[module] = {name for name in names if name in sources and name != module}
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the modules that reach each other, by Tarjan's strongly connected components (SIAM J. Comput. 1, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[set[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            start = stack.index(module)
            components.append(set(stack[start:]))
            del stack[start:]

    for module in graph:
        if module not in index:
            visit(module)
    return [component for component in components if len(component) > 1]


def test_no_modules_import_each_other_in_a_circle() -> None:
    # the public door imports, late, whatever is public
    sources = {module: path for path in SOURCE.rglob("*.py") if (module := module_of(path)) != "laconic"}
    assert circles(dependencies(sources)) == []


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, [{"b", "c"}]),
        ({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}}, [{"d", "e"}, {"a", "b", "c"}]),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}, []),
    ],
    ids=["chain", "pair", "two", "diamond"],
)
def test_the_search_for_circles_finds_them(graph: dict[str, set[str]], found: list[set[str]]) -> None:
    assert circles(graph) == found


LONGEST = 450  # lines


def test_no_file_is_long_unless_it_says_why() -> None:
    """A table may be longer; its first lines then say `Longer than … lines:` and why."""
    long = {}
    for path in sorted(SOURCE.rglob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > LONGEST and not any(f"onger than {LONGEST} lines:" in line for line in lines[:10]):
            long[str(path.relative_to(SOURCE))] = len(lines)
    assert long == {}


HEAVY = [
    "onnxruntime",
    "openvino",
    "sklearn",
    "transformers",
    "plotly",
    "accelerate",
    "torchmetrics",
    "optuna",
    "onnx",
    "onnxscript",
    "scipy",
    "jinja2",
]


def loaded(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps([m for m in sys.modules if '.' not in m]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_laconic_loads_nothing_heavy() -> None:
    assert not loaded("import laconic") & {*HEAVY, "torch"}


def test_the_help_of_the_command_line_loads_no_torch() -> None:
    code = "import laconic.cli\ntry:\n    laconic.cli.app(['--help'])\nexcept SystemExit:\n    pass"
    assert not loaded(code) & {*HEAVY, "torch", "numpy"}


def test_every_public_name_is_there_and_documented() -> None:
    for name in laconic.__all__:
        assert getattr(laconic, name).__doc__, name
    assert set(laconic.__all__) == set(laconic._NAMES)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = laconic.nonsense


# Where steps may be listed by name: the registry, and the public names.
STEPS_BY_NAME = ("run/runner.py", "laconic/__init__.py")


def compared_or_listed(tree: ast.AST) -> Iterator[object]:
    """Constants in literals, as keys, and in comparisons: what a list of names is made of."""
    for node in ast.walk(tree):
        inside: list[ast.expr | None] = []
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            inside = list(node.elts)
        elif isinstance(node, ast.Dict):
            inside = list(node.keys)
        elif isinstance(node, ast.Compare):
            inside = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            inside = [node.value]
        yield from (item.value for item in inside if isinstance(item, ast.Constant))


def test_no_list_of_steps_stands_outside_their_tables() -> None:
    from laconic.run.runner import TABLE

    for path in SOURCE.rglob("*.py"):
        if not path.as_posix().endswith(STEPS_BY_NAME):
            names = TABLE.keys() & {
                name for name in compared_or_listed(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(name, str)
            }
            assert not names, f"{path.name} lists steps by name: {names}. What it must know of a step stands on its StepConfig"


@pytest.mark.parametrize("code", ["x = ('prune',)", "x == 'prune'", "{'prune': 1}", "match x:\n    case 'prune':\n        pass"])
def test_the_search_for_lists_of_steps_finds_them(code: str) -> None:
    assert "prune" in compared_or_listed(ast.parse(code))


def test_extras_that_messages_name_exist() -> None:
    """`need("package", "extra")` tells a user to install it."""
    # no tomllib in Python 3.10: the names stand at the beginning of lines of one table
    table = (
        (SOURCE.parents[1] / "pyproject.toml")
        .read_text(encoding="utf-8")
        .partition("[project.optional-dependencies]")[2]
        .partition("\n[")[0]
    )
    extras = set(re.findall(r"^([\w-]+) = \[", table, re.MULTILINE))
    asked = {}
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        constants = dict(re.findall(r'^(_\w+) = "([\w-]+)"', text, re.MULTILINE))
        for name in re.findall(r'\bneed\([^()]*, (?:extra=)?("[\w-]+"|_\w+)\)', text):
            asked[name.strip('"') if name.startswith('"') else constants[name]] = path
    assert len(asked) > 3
    assert not set(asked) - extras, asked
