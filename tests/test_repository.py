"""The rules of the repository: no address of a machine or registry, one version, true pages."""

import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import packages_distributions
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
PAGES[ROOT / "README.md"] = README
MADE = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
REGISTRY = re.compile(
    r"py[p]i\.org|python[h]osted|index[-_]url|find[-]links|anaconda\.(?:org|com)|"
    r"conda[-]forge|/simple/?(?=[\s\"'])|art[i]factory|dev[p]i",
    re.IGNORECASE,
)
# a path, not the tail of another one nor a piece of base64
MACHINE = re.compile(r"(?<![\w+/.=-])/(?:home|root|tmp|work|mnt|Users|scratch)\b")


def is_made(path: str) -> bool:
    """Whether git ignores a path: the environment, or what the pipeline makes."""
    parts = Path(path).parts
    return any(
        fnmatch(part, pattern) or path.startswith(f"{pattern}/")
        for pattern in MADE
        for part in parts
    )


@cache
def files() -> list[Path]:
    """The files of the repository: git's, or all that are not made where there is no git."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        words = [git, "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
        listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        names = [name for name in listed.stdout.split("\0") if name]
    else:
        inside = (p for p in ROOT.rglob("*") if p.is_file() and ".git" not in p.parts)
        names = [str(p.relative_to(ROOT)) for p in inside]
        names = [
            n for n in names if not is_made(n) and not re.match(r"\.dvc/(cache|tmp|conf.*l)", n)
        ]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


@cache
def texts() -> dict[str, str]:
    """The content of every text file."""
    found = {}
    for path in files():
        try:
            found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            assert path.suffix in (".png", ".pdf"), f"{path} is neither UTF-8 nor a figure"
    return found


def hits(pattern: re.Pattern, allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{name}:{number}: {match[0]}"
        for name, text in texts().items()
        if name not in allowed
        for number, line in enumerate(text.splitlines(), start=1)
        if (match := pattern.search(line))
    ]


def test_the_files_are_found():
    names = set(texts())
    assert {"README.md", "Makefile", "dvc.yaml", "carot_lib/params.py", ".dvc/config"} <= names
    assert not any(name.startswith((".venv", "models/", "site/")) for name in names)


def test_the_patterns_find_what_is_forbidden_and_nothing_else():
    for line in ("--extra-index" + "-url https://example.org/", "https://py" + "pi.org/project/x"):
        assert REGISTRY.search(line), line
    for line in ('open("/ho' + 'me/me/x.csv")', "source: /wo" + "rk/main/x.png"):
        assert MACHINE.search(line), line
    for line in ("site/home/x", "a3Fz/work/xQ", "results/tmp/x", "../root/x"):
        assert not MACHINE.search(line), line


def test_no_file_names_a_registry():
    assert hits(REGISTRY) == []


def test_no_file_names_a_folder_of_some_machine():
    assert hits(MACHINE, allowed=(".dvc/.gitignore",)) == []


# ----------------------------------------------------------------------------- requirements ------

LISTS = ("requirements.txt", "requirements-test.txt")
# Requirements that no file imports, with the word by which they are used.
PLUGINS = {
    "aiohttp": "fsspec",  # by which fsspec reads what lies behind a URL
    "beartype": "beartype.beartype",
    "jupyterlab": "jupyter lab",
    "myst-nb": '"myst_nb"',
    "playwright": "playwright.sync_api",
    "pytest-xdist": "--numprocesses",
    "ruff": "/ruff check",
    "sphinx-book-theme": '"sphinx_book_theme"',
    "sphinx-mathjax-offline": '"sphinx-mathjax-offline"',
    "sphinxcontrib-bibtex": '"sphinxcontrib.bibtex"',
    "timm": "timm_model_name",
}


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(name: str) -> dict[str, str]:
    """The version of each distribution in a list."""
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    lines = [line for line in lines if line]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line), line
    found = {normal(line.split("==")[0]): line.split("==")[1] for line in lines}
    assert len(found) == len(lines), f"{name} has a line twice"
    return found


def test_every_requirement_is_pinned_once_and_alike():
    run, test = map(pins, LISTS)
    constraints = pins("constraints.txt")
    assert len(run) > 20 < len(constraints)
    assert not run.keys() & test.keys()
    both = run | test
    assert all(both[name] == constraints[name] for name in both.keys() & constraints.keys())


def imported(*folders: str) -> set[str]:
    """The distributions that the files of some folders import."""
    files = {name: text for name, text in texts().items() if name.split("/")[0] in folders}
    sources = [text for name, text in files.items() if name.endswith(".py")]
    for name, text in files.items():
        if name.startswith("notebooks/") and name.endswith(".ipynb"):
            cells = [c["source"] for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
            sources += ["".join(cell) for cell in cells]
    modules = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module.split(".")[0])
    ours = {"carot_lib", "benchmarks"} | {Path(n).stem for n in files if n.startswith("tests/")}
    names = packages_distributions()
    others = modules - ours - sys.stdlib_module_names
    return {normal(name) for module in others for name in names[module]}


def test_requirements_are_what_is_imported():
    run, test = map(set, map(pins, LISTS))
    scopes = [("carot_lib", "notebooks", "appendix"), ("tests", "benchmarks")]
    by_code, by_tests = imported(*scopes[0]), imported(*scopes[1])
    assert by_code - run == set(), "add to requirements.txt"
    assert run - by_code - set(PLUGINS) == set(), "drop from requirements.txt: nothing needs it"
    assert by_tests - run - test == set(), "add to requirements-test.txt"
    assert test - by_tests - set(PLUGINS) == set(), "drop from requirements-test.txt"


def test_plugins_are_used():
    used = [text for name, text in texts().items() if name != "tests/test_repository.py"]
    assert [n for n, word in PLUGINS.items() if not any(word in text for text in used)] == []
    assert not set(PLUGINS) - set(pins(LISTS[0])) - set(pins(LISTS[1]))


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_requirements_are_read_from_the_lists():
    tree = project()
    assert tree["project"]["dynamic"] == ["dependencies", "optional-dependencies"]
    assert tree["tool"]["setuptools"]["dynamic"] == {
        "dependencies": {"file": [LISTS[0]]},
        "optional-dependencies": {"test": {"file": [LISTS[1]]}},
    }
    *_, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    needed = {*(f"--requirement {name}" for name in LISTS), "--constraint constraints.txt"}
    assert needed <= set(pip["pip"])


def test_all_packages_of_the_code_are_installed():
    packages = project()["tool"]["setuptools"]["packages"]
    assert packages == {"find": {"include": ["carot_lib*"]}}  # every folder with an __init__.py
    folders = {path.parent for path in (ROOT / "carot_lib").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_there_is_one_version():
    version = project()["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest[1] == version


def test_python_is_the_same_everywhere():
    needed = project()["project"]["requires-python"]
    assert needed == ">=3.11"
    assert "Python 3.11 or newer" in README
    assert "version_info < (3, 11)" in (ROOT / "Makefile").read_text()
    assert project()["tool"]["ruff"]["target-version"] == "py311"


def test_dvc_sends_nothing():
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config")
    assert not config.getboolean("core", "analytics")
    assert not config.getboolean("core", "check_update")


def test_all_tests_run_at_every_change():
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    first, *_, fast, slow = path.read_text().splitlines()
    assert first.startswith("#!")
    assert (fast, slow) == ("make test", "make test-slow")


# -------------------------------------------------------------------------------- the pages ------

SUFFIXES = ("py", "md", "yaml", "yml", "csv", "ipynb", "png", "pdf", "txt", "toml", "cff", "html")
LAYOUT = README.split("\n## Layout\n")[1].split("```")[1]


def mapped() -> list[str]:
    """Every path in the README's map of the repository."""
    found, folder = [], ""
    for line in filter(None, LAYOUT.splitlines()):
        names = re.split(r"\s{2,}", line.strip())[0].split()
        if line.startswith(" "):
            found += [f"{folder}{name}" for name in names]
        else:
            found += names
            folder = names[0]
    return found


def test_the_map_shows_every_part_and_nothing_else():
    assert len(mapped()) > 20
    kinds = {True: Path.is_dir, False: Path.is_file}
    assert [name for name in mapped() if not kinds[name.endswith("/")](ROOT / name)] == []
    parts = {p.relative_to(ROOT).parts[0] for p in files() if len(p.relative_to(ROOT).parts) > 1}
    shown = {name.split("/")[0] for name in mapped()}
    assert {part for part in parts if not part.startswith(".")} - {"tests"} <= shown


def test_every_link_leads_to_a_file_and_a_heading():
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)]+)\)", PAGES[page])]
    assert len(links) > 10
    for page, link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path
        assert is_made(path) or target.exists(), f"{page}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in headings]


def mentioned() -> set[str]:
    """Every path in code and blocks of the pages, placeholders included."""
    paths = set()
    for text in PAGES.values():
        spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        blocks = re.findall(r"```\w*\n(.*?)```", text.replace(LAYOUT, ""), re.DOTALL)
        words = [word.strip(",;:.") for part in (*spans, *blocks) for word in part.split()]
        ends = rf"[\w.<>/-]+(?:/|\.(?:{'|'.join(SUFFIXES)}))"
        paths |= {word for word in words if re.fullmatch(ends, word)}
    return paths


def test_every_path_in_the_pages_exists():
    paths = mentioned()
    assert {"params.yaml", "data/choices/pilot/gates.csv", "carot_lib/methods/<name>.py"} <= paths
    names = {name.name for name in files()}

    def exists(path: str) -> bool:
        pattern = re.sub(r"<\w+>", "*", path).strip("/")
        if "/" in pattern:
            return is_made(pattern) or any(ROOT.glob(pattern))
        return is_made(pattern) or any(fnmatch(name, pattern) for name in names)

    assert [path for path in sorted(paths) if not exists(path)] == []


def test_the_readme_fits_on_a_few_screens():
    assert len(README.splitlines()) <= 150


def test_the_python_in_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(60, 3)), rng.integers(3, size=60)
    given = {"logits": logits, "labels": labels}
    given |= {f"validation_{name}": array for name, array in given.items()}
    snippets = [
        s for text in PAGES.values() for s in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ]
    assert snippets
    for snippet in snippets:
        exec(snippet, dict(given))
    assert (tmp_path / "reliability.pdf").stat().st_size > 1000


def staged(path: str) -> str:
    """What the next commit will say of a file, which is what the last one says if nothing is added.

    The results in the working tree may have been made anew, and on another kind of processor they
    have other digits than the README; that is no error. README and results of one commit must
    agree. Without git nobody commits, and the test is skipped.
    """
    git = shutil.which("git")
    if not git or not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    words = [git, "-c", f"safe.directory={ROOT}"]
    glob = f":(glob){path}"
    listed = subprocess.run(
        [*words, "ls-files", "--", glob], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (name,) = listed.stdout.split()
    words += ["show", f":{name}"]
    shown = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    return shown.stdout.decode("utf-8")


def test_the_tables_of_the_pages_are_the_results():
    for name, page in (("table1", "README.md"), ("table2", "docs/results.md")):
        assert staged(f"results/miniature/**/{name}.md").strip() in staged(page), name


def test_the_verdicts_of_the_pages_are_the_results():
    replication = StringIO(staged("results/miniature/tables/replication.csv"))
    report = pd.read_csv(replication, dtype={"claim": str})
    headings = {"holds": "Hold", "undecided": "Undecided", "fails": "Fail"}
    rows, claims = [], {heading: [] for heading in headings.values()}
    for claim, parts in report.groupby("claim", sort=False):
        held, published = (parts["verdict"] == "holds").sum(), parts["paper_verdict"]
        published = published[published != "not published"]
        paper = f"{(published == 'holds').sum()} of {len(published)}"
        (text,), (verdict,) = parts["text"].unique(), parts["claim_verdict"].unique()
        rows.append(f"| {claim} | {text} | {held} of {len(parts)} | {verdict} | {paper} |")
        claims[headings[verdict]].append(claim)
    lines = staged("docs/results.md").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| | claim |"))
    assert lines[start + 2 : start + 2 + len(rows)] == rows
    assert not lines[start + 2 + len(rows)].startswith("|")  # and no row more
    named = {}
    for item in staged("README.md").split("\n* **")[1:]:  # the verdicts in words
        heading, _, text = item.split("\n\n")[0].partition(":** ")
        text = text.replace("claims ", "").replace("claim ", "")
        inside = re.findall(r"\(([^)]+)\)", text)
        named[heading] = [name for names in inside for name in names.split(", ")]
    assert {heading: sorted(names) for heading, names in named.items()} == claims


def test_the_papers_table_in_the_pages_is_the_one_in_data():
    paper = pd.read_csv(ROOT / "data" / "paper" / "table1.csv")
    lines = PAGES[ROOT / "docs" / "results.md"].splitlines()
    shown = [re.findall(r"\d\.\d{4}", line) for line in lines if line.startswith("| ")]
    for numbers in paper.select_dtypes("number").to_numpy():
        assert [f"{number:.4f}" for number in numbers] in shown


def test_the_commands_of_the_pages_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    text = "\n".join(PAGES.values())
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", text, flags=re.MULTILINE))
    assert {"repro", "test"} <= named <= targets


# ------------------------------------------------------------------------------ the Makefile ------

PYTHON = """#!/bin/sh
# a Python that calls itself {version}, and makes an environment of programs that print their call
case "$1 $2" in
  "-c "*) exec "{real}" -c "import sys; sys.version_info = {numbers}; exec(sys.argv[1])" "$2" ;;
  "-V "*) echo "Python {version}" ;;
  "-m venv") echo "python $*"; exec ./environment.sh ;;
esac
"""
PROGRAM = '#!/bin/sh\necho "{name} $*, $GOMP_SPINCOUNT"\n'
UV = """#!/bin/sh
echo "uv $*"
if [ "$1" = venv ]; then ./environment.sh; fi
"""
ENVIRONMENT = "#!/bin/sh\nmkdir -p .venv/bin && cp programs/* .venv/bin/\n"
RUN_LIST = "--requirement requirements.txt --constraint constraints.txt"
TEST_LIST = "--requirement requirements-test.txt --constraint constraints.txt"


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def write_python(folder: Path, version: str) -> None:
    numbers = tuple(map(int, version.split(".")))
    text = PYTHON.format(version=version, numbers=numbers, real=sys.executable)
    write_program(folder / "python", text)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What `make` needs of the project, in a folder without git, and programs that do nothing."""
    folder = tmp_path / "a project"  # a space in the name
    (folder / ".dvc").mkdir(parents=True)
    for name in ("Makefile", *LISTS, "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("python", "dvc"):
        write_program(folder / "programs" / name, PROGRAM.format(name=name))
    write_program(folder / "environment.sh", ENVIRONMENT)
    write_python(folder, "3.11.0")
    return folder


def make(folder: Path, *words: str, uv: str | None = "") -> subprocess.CompletedProcess:
    """Run make with another uv than the one on the PATH, by default with none."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    environment |= {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    return subprocess.run(
        ["make", "PYTHON=./python", *([] if uv is None else [f"UV={uv}"]), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def calls(done: subprocess.CompletedProcess) -> list[str]:
    """The calls of programs, in order and without pip's options."""
    assert done.returncode == 0, done.stderr
    lines = [line.removesuffix(", 10000") for line in done.stdout.splitlines()]
    options = " --quiet| --disable-pip-version-check"
    return [re.sub(options, "", x) for x in lines if x.startswith(("python ", "dvc ", "uv "))]


SETUP = ["python -m venv .venv", f"python -m pip install {RUN_LIST}"]
SETUP += ["python -m pip install --no-deps --editable ."]
REPRO = ["python -m carot_lib repro"]


def test_an_older_python_is_refused_with_a_line(clone: Path):
    for target, version in (("repro", "3.9.2"), ("test", "3.10.14")):
        write_python(clone, version)
        done = make(clone, target)
        assert done.returncode != 0
        said = f"Python 3.11 or newer is needed, ./python is Python {version}: "
        assert done.stderr.splitlines()[0] == said + "try make PYTHON=python3.11"
        assert not (clone / ".venv").exists()


def test_repro_and_test_make_what_they_need_once_in_both_orders(clone: Path):
    add = f"python -m pip install {TEST_LIST}"
    assert calls(make(clone, "repro")) == [*SETUP, *REPRO]
    test = calls(make(clone, "test"))
    assert test[0] == add
    assert test[1].startswith("python -m pytest --numprocesses 2 --dist loadfile")
    shutil.rmtree(clone / ".venv")
    assert calls(make(clone, "test")) == [*SETUP, *test]
    assert calls(make(clone, "repro")) == REPRO
    assert calls(make(clone, "test-slow")) == [f"{test[1]} -m slow or hypothesis"]


def test_an_environment_that_is_not_finished_is_made_anew(clone: Path):
    (clone / ".venv").mkdir()  # as pip leaves it when the network fails
    write_python(clone, "3.14.1")
    assert calls(make(clone, "setup")) == SETUP
    assert (clone / ".venv" / ".ready").exists()


def test_a_step_that_fails_leaves_the_environment_unfinished(clone: Path):
    write_program(clone / "programs" / "python", "#!/bin/sh\nexit 1\n")
    assert make(clone, "setup").returncode != 0
    assert not (clone / ".venv" / ".ready").exists()


def test_uv_on_the_path_installs_the_same_lists(clone: Path, monkeypatch: pytest.MonkeyPatch):
    write_program(clone / "tools" / "uv", UV)
    monkeypatch.setenv("PATH", f"{clone / 'tools'}:{os.environ['PATH']}")
    install = "uv pip install --compile-bytecode --python .venv/bin/python"
    assert calls(make(clone, "test", uv=None))[:4] == [
        "uv venv --seed --allow-existing --python ./python .venv",
        f"{install} {RUN_LIST}",
        f"{install} --no-deps --editable .",
        f"{install} {TEST_LIST}",
    ]


def test_pip_does_what_uv_fails_to_do(clone: Path):
    write_program(clone / "uv", "#!/bin/sh\necho 'no such index' >&2\nexit 2\n")
    done = make(clone, "setup", uv="./uv")
    assert calls(done) == SETUP
    assert set(done.stderr.splitlines()) == {"uv failed; using pip"}


@pytest.fixture
def ready(clone: Path) -> Path:
    """A project whose environment is made."""
    assert make(clone, "setup").returncode == 0
    return clone


def test_the_commands_of_the_makefile_run_in_the_environment(ready: Path):
    (ready / "params.yaml").write_text("profile: miniature\nseeds: [0]\n")
    for target in ("appendix", "pilot", "search"):
        assert calls(make(ready, target)) == [f"python -m carot_lib {target}"]


def test_repro_stops_where_the_params_have_an_error(ready: Path):
    error = "#!/bin/sh\necho 'params.yaml: seeds: missing' >&2\nexit 2\n"
    write_program(ready / ".venv" / "bin" / "python", error)
    done = make(ready, "repro")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "params.yaml: seeds: missing"
    assert "dvc" not in done.stdout


def test_dvc_is_configured_for_a_folder_without_git_only(ready: Path):
    local = ready / ".dvc" / "config.local"
    assert calls(make(ready, "repro")) == REPRO
    config = configparser.ConfigParser()
    config.read(local)
    assert config.getboolean("core", "no_scm")
    local.unlink()
    subprocess.run(["git", "init", "--quiet"], cwd=ready, check=True)
    assert calls(make(ready, "repro")) == REPRO
    assert not local.exists()


def test_make_alone_lists_the_commands(clone: Path):
    done = make(clone)
    assert done.returncode == 0
    assert "run the tests" in done.stdout
    assert not (clone / ".venv").exists()
