"""Stage `appendix`: render the executed notebooks as a static site that needs no network.

python -m carot_lib.stages.appendix --profile miniature

Reads appendix/ and results/<profile>/notebooks/; writes site/<profile>/, to be opened at
index.html.
"""

import hashlib
import platform
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from sphinx.cmd.build import build_main

from carot_lib.command import read_command
from carot_lib.layout import Layout
from carot_lib.schema import exit_on_bad_input

PACKAGES = ("torch", "open_clip_torch", "numpy", "matplotlib", "dvc")


def render(layout: Layout) -> Path:
    """Build the site; returns the page to open.

    Raises:
        ValueError: no notebook was executed yet.
        RuntimeError: Sphinx found a fault; it is on standard error.
    """
    notebooks = sorted((layout.results / "notebooks").glob("[0-9]*.ipynb"))
    notebooks = [path for path in notebooks if not path.name.endswith(".failed.ipynb")]
    if not notebooks:
        raise ValueError(f"{layout.results}/notebooks holds no notebook: run `make repro`")
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder) / "source", Path(folder) / "html"
        shutil.copytree(layout.root / "appendix", source)
        for path in notebooks:
            shutil.copy(path, source)
        index = source / "index.md"
        text = index.read_text(encoding="utf-8")
        index.write_text(text.replace("{{ provenance }}", provenance(layout)), encoding="utf-8")
        if build_main(["-q", "-W", "--keep-going", "-b", "html", str(source), str(built)]):
            raise RuntimeError("the appendix was not built; Sphinx says why above")
        shutil.rmtree(built / ".doctrees", ignore_errors=True)
        if layout.site.exists():
            shutil.rmtree(layout.site)
        layout.site.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(built, layout.site)
    return layout.site / "index.html"


def provenance(layout: Layout) -> str:
    """What the numbers were made by: profile, parameters, versions."""
    digest = hashlib.sha256(layout.params.read_bytes()).hexdigest()[:12]
    rows = {
        "Profile": layout.profile,
        "Hash of params.yaml": digest,
        "Python": platform.python_version(),
        "Machine": f"{platform.system()}, {platform.machine()}",
    } | {package: version(package) for package in PACKAGES}
    lines = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    with exit_on_bad_input():
        try:
            page = render(read_command(__doc__).layout)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            raise SystemExit(1) from None
        print(f"appendix: {page}")
