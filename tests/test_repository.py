"""The rules of the repository: no address of a machine or registry, one version, a true README."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml

from carot_lib.report.names import RUN_NAMES
from carot_lib.report.tables import to_markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "results" / "miniature"
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


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("--extra-index" + "-url https://example.org/", REGISTRY),
        ("https://py" + "pi.org/project/torch", REGISTRY),
        ('open("/ho' + 'me/me/x.csv")', MACHINE),
        ("source: /wo" + "rk/main/x.png", MACHINE),
    ],
)
def test_the_forbidden_would_be_found(line: str, pattern: re.Pattern):
    assert pattern.search(line)


@pytest.mark.parametrize("line", ["site/home/x", "a3Fz/work/xQ", "results/tmp/x", "../root/x"])
def test_what_is_allowed_is_not_found(line: str):
    assert not MACHINE.search(line)


def test_no_file_names_a_registry():
    assert hits(REGISTRY) == []


def test_no_file_names_a_folder_of_some_machine():
    assert hits(MACHINE, allowed=(".dvc/.gitignore",)) == []


def requirements(name: str) -> list[str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("name", ["requirements.txt", "constraints.txt"])
def test_every_requirement_is_a_name_and_one_version(name: str):
    lines = requirements(name)
    assert len(lines) > 20
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+( *;.*)?", line), line
    names = [re.split("==", line)[0].lower().replace("_", "-") for line in lines]
    assert len(set(names)) == len(names)


def test_requirements_and_constraints_do_not_contradict():
    pins = [
        dict(line.split("==") for line in requirements(n))
        for n in ("requirements.txt", "constraints.txt")
    ]
    first, second = ({k.lower().replace("_", "-"): v for k, v in pin.items()} for pin in pins)
    assert all(first[name] == second[name] for name in first.keys() & second.keys())


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_list_of_requirements_stands_once():
    tree = project()
    assert tree["project"]["dynamic"] == ["dependencies"]
    assert "dependencies" not in tree["project"]
    dynamic = tree["tool"]["setuptools"]["dynamic"]
    assert dynamic == {"dependencies": {"file": ["requirements.txt"]}}
    *_, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert {"--requirement requirements.txt", "--constraint constraints.txt"} <= set(pip["pip"])
    makefile = (ROOT / "Makefile").read_text()
    assert "--requirement requirements.txt --constraint constraints.txt" in makefile


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


def test_the_checks_of_every_change_are_make_test():
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    first, *_, last = path.read_text().splitlines()
    assert first.startswith("#!")
    assert last == "make test"


# ------------------------------------------------------------------------------- the README ------


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def mapped() -> list[str]:
    """Every path in the map of the house."""
    block = section("Map of the house").split("```")[1]
    found, folder = [], ""
    for line in filter(None, block.splitlines()):
        names = re.split(r"\s{2,}", line.strip())[0].split()
        if line.startswith(" "):
            found += [f"{folder}{name}" for name in names]
        else:
            found += names
            folder = names[0]
    return found


@pytest.mark.parametrize("name", mapped())
def test_everything_in_the_map_of_the_house_is_there(name: str):
    path = ROOT / name
    assert path.is_dir() if name.endswith("/") else path.is_file()


def test_the_map_of_the_house_shows_every_part():
    assert len(mapped()) > 20
    parts = {p.relative_to(ROOT).parts[0] for p in files() if len(p.relative_to(ROOT).parts) > 1}
    shown = {name.split("/")[0] for name in mapped()}
    assert {part for part in parts if not part.startswith(".")} - {"tests"} <= shown


SUFFIXES = ("py", "md", "yaml", "yml", "csv", "ipynb", "png", "txt", "toml", "cff", "html", "tex")


def mentioned() -> set[str]:
    """Every path in links, code and blocks of the README, placeholders included."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    blocks = re.findall(r"```\w*\n(.*?)```", README.replace(section("Map of the house"), ""), re.S)
    words = [word.strip(",;:.") for text in (*spans, *blocks) for word in text.split()]
    paths = [w for w in words if re.fullmatch(rf"[\w.<>/-]+(?:/|\.(?:{'|'.join(SUFFIXES)}))", w)]
    return {link for link in links if ":" not in link} | set(paths)


@pytest.mark.parametrize("path", sorted(mentioned()))
def test_every_path_in_the_readme_exists(path: str):
    pattern = re.sub(r"<\w+>", "*", path).strip("/")
    if is_made(pattern):
        pytest.skip("made by the pipeline")
    if "/" in path:
        assert list(ROOT.glob(pattern))
    else:
        assert [name for name in map(str, files()) if fnmatch(Path(name).name, pattern)]


def test_the_readme_mentions_paths():
    assert {"LICENSE", "params.yaml"} & mentioned() == {"params.yaml"}
    assert "results/miniature/figures/figure4.png" in mentioned()
    assert "carot_lib/methods/<name>.py" in mentioned()


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_the_tables_of_the_readme_are_the_results(name: str):
    assert (RESULTS / f"{name}.md").read_text(encoding="utf-8").strip() in README


def test_the_papers_table_of_the_readme_is_the_one_in_data():
    paper = pd.read_csv(ROOT / "data" / "paper" / "table1.csv")
    assert to_markdown(paper, RUN_NAMES).strip() in README


def test_the_verdicts_of_the_readme_are_the_results():
    report = pd.read_csv(RESULTS / "replication.csv", dtype={"claim": str})
    rows = []
    for claim, parts in report.groupby("claim", sort=False):
        held, borne_out = (parts["verdict"] == "holds").sum(), (parts["paper_verdict"] == "holds")
        paper = "yes" if borne_out.all() else "**no**"
        (text,), (verdict,) = parts["text"].unique(), parts["claim_verdict"].unique()
        rows.append(f"| {claim} | {text} | {held} of {len(parts)} | {verdict} | {paper} |")
    lines = section("What comes out").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| | claim |"))
    assert lines[start + 2 : start + 2 + len(rows)] == rows
    assert not lines[start + 2 + len(rows)].startswith("|")  # and no row more


def test_the_numbers_in_the_readme_are_those_of_the_files():
    trained = yaml.safe_load((ROOT / "params.yaml").read_text())["trained"]
    assert f"pre-training, {len(trained)} fine-tunings," in README
    length = len((ROOT / "carot_lib" / "methods" / "fine_tune.py").read_text().splitlines())
    assert f"`fine_tune.py`, the shortest, has {length} lines" in README
    methods = [ROOT / "carot_lib" / "methods" / f"{name}.py" for name in ("flyp", "carot")]
    assert length < min(len(path.read_text().splitlines()) for path in methods)


def test_the_commands_of_the_readme_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make (\w+)", README, flags=re.MULTILINE))
    assert {"repro", "test"} <= named <= targets


# ------------------------------------------------------------------------------ the Makefile ------

FAKE = """#!/bin/sh
# a Python that calls itself {version}; it makes no environment
case "$1" in
  -c) exec "{real}" -c "import sys; sys.version_info = {numbers}; exec(sys.argv[1])" "$2" ;;
  -V) echo "Python {version}" ;;
  *) echo "asked: $*" >&2; exit 9 ;;
esac
"""


def make(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    environment |= {"GIT_CEILING_DIRECTORIES": str(folder.parent), **variables}
    environment.pop("PYTHON", None)
    return subprocess.run(
        ["make", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What `make` needs of the project, in a folder without git."""
    folder = tmp_path / "a project"  # a space in the name
    (folder / ".dvc").mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def python(folder: Path, version: str) -> str:
    path = folder / "python"
    numbers = tuple(map(int, version.split(".")))
    path.write_text(FAKE.format(version=version, numbers=numbers, real=sys.executable))
    path.chmod(0o755)
    return "PYTHON=./python"


@pytest.mark.parametrize("version", ["3.9.2", "3.10.14"])
@pytest.mark.parametrize("target", ["repro", "test"])
def test_an_older_python_is_refused_with_a_line(clone: Path, version: str, target: str):
    done = make(clone, target, python(clone, version))
    assert done.returncode != 0
    said = f"Python 3.11 or newer is needed, ./python is Python {version}: "
    assert done.stderr.splitlines()[0] == said + "try make PYTHON=python3.11"
    assert "asked" not in done.stderr  # nothing was made
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("version", ["3.11.0", "3.14.1"])
def test_a_newer_python_makes_the_environment(clone: Path, version: str):
    done = make(clone, "setup", python(clone, version))
    assert "is needed" not in done.stderr
    assert "asked: -m venv .venv" in done.stderr


def test_an_environment_that_is_not_finished_is_made_anew(clone: Path):
    (clone / ".venv").mkdir()  # as pip leaves it when the network fails
    done = make(clone, "setup", python(clone, "3.12.1"))
    assert "asked: -m venv .venv" in done.stderr
    assert not (clone / ".venv" / ".ready").exists()


@pytest.fixture
def ready(clone: Path) -> Path:
    """A project whose environment is made: of programs that only say how they were called."""
    binaries = clone / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("python", "dvc"):
        (binaries / name).write_text(f'#!/bin/sh\necho "{name} $*, $GOMP_SPINCOUNT"\n')
        (binaries / name).chmod(0o755)
    (clone / ".venv" / ".ready").touch()
    return clone


def test_repro_checks_the_params_and_runs_dvc_of_the_environment(ready: Path):
    done = make(ready, "repro")
    assert done.returncode == 0, done.stderr
    called = [line for line in done.stdout.splitlines() if line.startswith(("python ", "dvc "))]
    assert called == ["python -m carot_lib.stages.check_params, 10000", "dvc repro, 10000"]


def test_repro_stops_where_the_params_have_a_fault(ready: Path):
    fault = "#!/bin/sh\necho 'params.yaml: seeds: missing' >&2\nexit 2\n"
    (ready / ".venv" / "bin" / "python").write_text(fault)
    done = make(ready, "repro")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "params.yaml: seeds: missing"
    assert "dvc" not in done.stdout


def test_without_git_dvc_is_told_so_and_with_git_it_is_not(ready: Path):
    local = ready / ".dvc" / "config.local"
    assert make(ready, "repro").returncode == 0
    config = configparser.ConfigParser()
    config.read(local)
    assert config.getboolean("core", "no_scm")
    local.unlink()
    subprocess.run(["git", "init", "--quiet"], cwd=ready, check=True)
    assert make(ready, "repro").returncode == 0
    assert not local.exists()


def test_make_alone_says_what_there_is(clone: Path):
    done = make(clone)
    assert done.returncode == 0
    assert "run the tests" in done.stdout
    assert not (clone / ".venv").exists()
