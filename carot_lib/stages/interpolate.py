"""Stage `interpolate`: mix the weights of the zero-shot model and of a run, a row WiSE-FT.

python -m carot_lib.stages.interpolate --profile miniature --run ft --seed 0

Reads models/<profile>/{zs,<run>}/seed<seed>/; writes models/<profile>/wise_<run>/seed<seed>/.
"""

from carot_lib.command import read_command
from carot_lib.layout import Layout
from carot_lib.models.clip import load_classifier, save_classifier
from carot_lib.models.wise_ft import InterpolationParams, interpolate
from carot_lib.schema import exit_on_bad_input, read_params


def mix(layout: Layout, run: str, seed: int) -> None:
    """Interpolate and write the classifier.

    Raises:
        ValueError: params.yaml does not interpolate this run.
    """
    params = read_params(layout.params, InterpolationParams, layout.profile, "interpolated", run)
    zero_shot = load_classifier(layout.model("zs", seed))
    fine_tuned = load_classifier(layout.model(run, seed))
    mixed = interpolate(zero_shot, fine_tuned, params.alpha)
    save_classifier(mixed, layout.model(f"wise_{run}", seed))


if __name__ == "__main__":
    with exit_on_bad_input():
        arguments = read_command(__doc__, "run", "seed")
        mix(arguments.layout, arguments.run, arguments.seed)
