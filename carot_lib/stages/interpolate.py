"""Stage `interpolate`: mix the weights of the zero-shot model and of a run, a row WiSE-FT.

python -m carot_lib.stages.interpolate --profile miniature --run wise_ft --seed 0

Reads models/<profile>/{zs,<source>}/seed<seed>/; writes models/<profile>/<run>/seed<seed>/.
"""

from carot_lib.clip_model import interpolate, load_classifier, save_classifier
from carot_lib.command import read_command
from carot_lib.layout import Layout
from carot_lib.params import load_params
from carot_lib.schema import exit_on_bad_input


def mix(layout: Layout, run: str, seed: int) -> None:
    """Interpolate and write the classifier.

    Raises:
        ValueError: params.yaml has no such row.
    """
    rows = load_params(layout.params).scale(layout.profile).interpolated
    if run not in rows:
        raise ValueError(f"{layout.profile}.interpolated: no row named {run!r}")
    zero_shot = load_classifier(layout.model("zs", seed))
    fine_tuned = load_classifier(layout.model(rows[run].source, seed))
    mixed = interpolate(zero_shot, fine_tuned, rows[run].alpha)
    save_classifier(mixed, layout.model(run, seed))


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "run", "seed")
        mix(arguments.layout, arguments.run, arguments.seed)
