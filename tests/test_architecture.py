"""The rules of the house, checked: imports go down, and DVC knows what each stage runs."""

import ast
import json
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "carot_lib"
FLOORS = [  # ground floor first; a part imports only from floors below its own
    {"schema", "files", "layout", "label_space", "progress", "command", "evaluation", "processes"},
    {"data", "calibration"},
    {"models"},
    {"methods"},
    {"training", "report"},
    {"params"},
    {"explore"},
    {"stages"},
]
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


def closure(source: str) -> set[Path]:
    """Every file of carot_lib that a source imports, directly or not."""
    seen, queue = set(), imports(source)
    while queue:
        path = queue.pop()
        if path not in seen:
            seen.add(path)
            queue |= imports(path.read_text())
    return seen


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
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
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


def code_of(stage: dict) -> set[Path]:
    """All the code that a stage runs: its module, what that imports, and so for its notebook."""
    words = stage["cmd"].split()
    module = ROOT / Path(*words[words.index("-m") + 1].split(".")).with_suffix(".py")
    code = {module} | closure(module.read_text())
    if "--notebook" in words:
        notebook = ROOT / "notebooks" / f"{words[words.index('--notebook') + 1]}.ipynb"
        cells = json.loads(notebook.read_text())["cells"]
        for cell in cells:
            if cell["cell_type"] == "code":
                code |= closure("".join(cell["source"]))
    return code


@pytest.mark.parametrize("name", STAGES)
def test_dvc_tracks_all_code_of_a_stage_and_no_other(name: str):
    code = code_of(STAGES[name])
    listed = {ROOT / dep for dep in STAGES[name]["deps"] if dep.startswith("carot_lib")}
    missing = {f for f in code if not any(f == d or d in f.parents for d in listed)}
    idle = {d for d in listed if not any(f == d or d in f.parents for f in code)}
    assert not missing, f"add to deps of {name}: {sorted(map(short, missing))}"
    assert not idle, f"drop from deps of {name}: {sorted(map(short, idle))}"


@pytest.mark.parametrize("name", STAGES)
def test_every_path_of_a_stage_belongs_to_its_profile(name: str):
    stage = STAGES[name]
    outs = [*stage.get("outs", []), *stage.get("metrics", [])]
    for out in outs:
        path = out if isinstance(out, str) else next(iter(out))
        assert "${item.profile}" in path


def test_every_notebook_has_a_stage():
    run = {word for stage in STAGES.values() for word in stage["cmd"].split()}
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} <= run
