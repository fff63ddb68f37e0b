"""The rules of the house, checked: imports go down, and DVC knows what each stage runs."""

import ast
import json
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

from carot_lib.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "carot_lib"
FLOORS = [  # ground floor first; a part imports only from floors below its own
    {"schema", "files", "layout", "progress", "processes", "distributed", "evaluation"},
    {"calibration"},
    {"data"},
    {"sources"},
    {"models"},
    {"methods"},
    {"training", "report"},
    {"params"},
    {"explore"},
    {"stages"},
    {"__main__"},
]
# Plumbing and monitoring, which change no result: no stage depends on them or on their imports.
NEUTRAL = {
    "__main__.py",  # the command line
    "distributed.py",  # who does which share: the same numbers however many share
    "files.py",  # writes files whole or not at all
    "layout.py",  # names of files, which dvc.yaml repeats
    "params.py",  # types of params.yaml, whose numbers DVC tracks as such
    "processes.py",  # how they end
    "progress.py",
    "schema.py",  # reads params.yaml
    "training/checkpoint.py",  # a resumed training ends in the same weights, bit by bit
    "training/hardware.py",  # starts the devices, whose numbers DVC tracks
    "training/monitor.py",  # leaves no trace in a training
}
METHODS = {
    "fine_tune": "methods/fine_tune.py",
    "flyp": "methods/flyp.py",
    "carot": "methods/carot.py",
}
FLOOR_OF = {name: level for level, names in enumerate(FLOORS) for name in names}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
LONGEST = 330  # lines


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def unit(path: Path) -> str:
    """The part of the house a file belongs to: `methods` for carot_lib/methods/carot.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str) -> set[Path]:
    """Files of carot_lib that a source imports directly (always `from carot_lib.x import y`)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("carot_lib."):
            path = ROOT / Path(*node.module.split("."))
            module = path.with_suffix(".py")
            found.add(module if module.exists() else path / "__init__.py")
    return found


def goes_down(path: Path, target: Path) -> bool:
    """Whether a file may import another one."""
    within = unit(target) == unit(path) and path.parent != PACKAGE and unit(path) != "stages"
    ground = FLOOR_OF[unit(target)] == FLOOR_OF[unit(path)] == 0
    return within or ground or FLOOR_OF[unit(target)] < FLOOR_OF[unit(path)]


def test_imports_only_go_down():
    pairs = [(path, target) for path in MODULES for target in imports(path.read_text())]
    wrong = [pair for pair in pairs if not goes_down(*pair)]
    assert [f"{short(path)} imports {short(target)}" for path, target in wrong] == []


def test_imports_never_go_in_circles():
    graph = {path: imports(path.read_text()) for path in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES)


def test_every_part_has_a_floor_and_every_floor_is_built():
    assert {unit(path) for path in MODULES} == set(FLOOR_OF)


def test_packages_hold_modules_and_no_code_of_their_own():
    # what an import runs on its way down is no dependency worth a line in dvc.yaml
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1, short(path)
        assert isinstance(body[0], ast.Expr), short(path)


def test_carot_lib_is_imported_by_full_name_of_the_module():
    # `import carot_lib.x` and relative imports would be missed by the tests above and below
    wrong = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                hidden = any(name.name.startswith("carot_lib") for name in node.names)
            else:
                relative = isinstance(node, ast.ImportFrom) and node.level > 0
                hidden = relative or getattr(node, "module", None) == "carot_lib"
            wrong += [f"{short(path)}, line {node.lineno}"] if hidden else []
    assert wrong == []


def test_modules_are_small():
    sizes = {short(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > LONGEST} == {}


def test_nothing_is_called_utils():
    assert not [path for path in MODULES if "util" in path.name or "helper" in path.name]


def test_nothing_runs_at_import():
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef)
    allowed += (ast.ClassDef, ast.Assign, ast.AnnAssign)
    guard = "if __name__ == '__main__':"
    wrong = [
        f"{short(path)}, line {node.lineno}"
        for path in MODULES
        for node in ast.parse(path.read_text()).body[1:]  # the first is the docstring
        if not isinstance(node, allowed) and not ast.unparse(node).startswith(guard)
    ]
    assert wrong == []


def public_parts(tree: ast.Module) -> list[tuple[str, ast.AST]]:
    """The module, its public functions, its classes and their public methods, with names."""
    parts = [("the module", tree)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            inside = [item for item in node.body if isinstance(item, ast.FunctionDef)]
            parts += [(node.name, node), *((f"{node.name}.{f.name}", f) for f in inside)]
    parts += [(node.name, node) for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [(name, node) for name, node in parts if not name.split(".")[-1].startswith("_")]


def test_everything_public_has_a_docstring():
    missing = [
        f"{short(path)}: {name}"
        for path in MODULES
        for name, node in public_parts(ast.parse(path.read_text()))
        if not ast.get_docstring(node)
    ]
    assert missing == []


def decisive(sources: list[str]) -> set[Path]:
    """Every file of carot_lib that sources import and that is not neutral, directly or not."""
    seen, queue = set(), {path for source in sources for path in imports(source)}
    while queue:
        path = queue.pop()
        if path not in seen and str(path.relative_to(PACKAGE)) not in NEUTRAL:
            seen.add(path)
            queue |= imports(path.read_text())
    return seen


def code_of(name: str) -> set[Path]:
    """All the code that decides the results of a stage."""
    words = STAGES[name]["cmd"].split()
    command = COMMANDS[words[words.index("carot_lib") + 1]]
    module = command.function.split(":")[0]
    module = module if "." in module else f"carot_lib.stages.{module}"
    path = (ROOT / Path(*module.split("."))).with_suffix(".py")
    files = [path, *(PACKAGE / METHODS[name] for _ in range(name in METHODS))]
    sources = [file.read_text() for file in files]
    if "--notebook" in words:
        for notebook in (ROOT / "notebooks").glob("*.ipynb"):
            cells = json.loads(notebook.read_text())["cells"]
            sources += ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return {*files, *decisive(sources)}


@pytest.mark.parametrize("name", STAGES)
def test_dvc_tracks_the_code_that_decides_a_stage_and_no_other(name: str):
    code = code_of(name)
    listed = {ROOT / dep for dep in STAGES[name]["deps"] if dep.startswith("carot_lib")}
    missing = {f for f in code if not any(f == d or d in f.parents for d in listed)}
    idle = {d for d in listed if not any(f == d or d in f.parents for f in code)}
    assert not missing, f"add to deps of {name}: {sorted(map(short, missing))}"
    assert not idle, f"drop from deps of {name}: {sorted(map(short, idle))}"


def test_no_stage_depends_on_what_changes_no_result():
    for name, stage in STAGES.items():
        assert not {f"carot_lib/{path}" for path in NEUTRAL} & set(stage["deps"]), name
        for path in NEUTRAL:
            assert not any(Path(dep) in Path("carot_lib", path).parents for dep in stage["deps"])
    assert all((PACKAGE / path).exists() for path in NEUTRAL)


def test_every_method_has_a_stage_that_depends_on_it_and_no_other_method():
    methods = yaml.safe_load((ROOT / "params.yaml").read_text())["methods"]
    assert set(methods) == {*METHODS, "wise_ft"}
    for name, path in METHODS.items():
        deps = set(STAGES[name]["deps"])
        assert deps & {f"carot_lib/{other}" for other in METHODS.values()} == {f"carot_lib/{path}"}


@pytest.mark.parametrize("name", STAGES)
def test_every_path_of_a_stage_belongs_to_its_profile(name: str):
    stage = STAGES[name]
    outs = [*stage.get("outs", []), *stage.get("metrics", [])]
    for out in outs:
        path = out if isinstance(out, str) else next(iter(out))
        assert "${item.profile}" in path


def test_every_notebook_has_a_stage():
    names = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert STAGES["notebook"]["matrix"]["name"] == names
