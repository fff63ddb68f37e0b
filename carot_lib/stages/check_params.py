"""Check the whole of params.yaml before anything runs; a fault is one line, exit code 2.

python -m carot_lib.stages.check_params
"""

from carot_lib.layout import find_root
from carot_lib.params import load_params
from carot_lib.schema import exit_on_bad_input

if __name__ == "__main__":
    with exit_on_bad_input():
        load_params(find_root() / "params.yaml")
