"""The pre-trained model of a profile: trained here, or published and loaded through open_clip."""

import difflib
import re
from pathlib import Path
from typing import Any, Literal

import open_clip
from open_clip.factory import get_model_config, load_checkpoint
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from open_clip.transform import PreprocessCfg

from carot_lib.models.clip import Clip, build_clip
from carot_lib.schema import StrictParams

PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")  # keys that come with weights
MAX_LISTED = 5  # tensors that a message names


class MiniatureClipParams(StrictParams):
    """The miniature's CLIP, trained with the parameters under `miniature:`."""

    kind: Literal["miniature"]


class OpenClipParams(StrictParams):
    """A pre-trained model that open_clip knows."""

    kind: Literal["open_clip"]
    architecture: str  # a name known to open_clip
    weights: str  # a name known to open_clip, or the path of a checkpoint, from the project's root

    def check(self, root: Path) -> None:
        """Check the names without loading anything; `root` is the project's folder.

        Raises:
            ValueError: open_clip knows no such architecture or weights, they do not fit together,
                or there is no such file; the message says what to do.
        """
        name, config = self.architecture, config_of(self.architecture)
        published, path = get_pretrained_cfg(name, self.weights), root / self.weights
        if not published and not path.is_file():
            known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
            raise ValueError(
                f"weights: {self.weights!r} is neither a file (looked at {path}) nor weights that "
                f"open_clip knows for {name} ({known})"
            )
        # open_clip itself only warns, and the accuracy drops by points: plain ViT-B-16 with
        # OpenAI's weights uses GELU where they need QuickGELU (open_clip, issue 1109)
        quick = published.get("quick_gelu", False)
        if published and config.get("quick_gelu", False) != quick:
            raise ValueError(
                f"architecture: the weights {self.weights!r} were trained with another "
                f"activation ({'QuickGELU' if quick else 'GELU'}) than {name} has: "
                f"write {name.removesuffix('-quickgelu')}{'-quickgelu' if quick else ''}"
            )

    def load(self, root: Path) -> Clip:
        """The model, in evaluation mode and full precision; `root` is the project's folder.

        Raises:
            ValueError: see `check`; or the weights cannot be had or do not fit.
        """
        self.check(root)
        name, config = self.architecture, config_of(self.architecture)
        published, path = get_pretrained_cfg(name, self.weights), root / self.weights
        if published:
            special = {k: published[k] for k in PREPROCESSING if k in published}
            special = {k: v for k, v in special.items() if v != getattr(PreprocessCfg, k)}
            config |= {"preprocess_cfg": special} if special else {}
            path = download(name, self.weights, published)
        clip = build_clip(config)
        load_weights(clip, path, name)
        return clip.eval()


def config_of(architecture: str) -> dict[str, Any]:
    """Config for `build_clip` of an architecture of open_clip.

    Raises:
        ValueError: there is no such architecture, or it is not supported.
    """
    config = get_model_config(architecture)
    if config is None:
        similar = difflib.get_close_matches(architecture, open_clip.list_models(), n=3)
        hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
        raise ValueError(f"architecture: open_clip knows no {architecture!r}{hint}")
    if "multimodal_cfg" in config:
        raise ValueError(f"architecture: {architecture} also generates captions: not supported")
    text = config["text_cfg"]
    if any(text.get(key) for key in ("hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs")):
        raise ValueError(
            f"architecture: the texts of {architecture} are not in CLIP's byte-pair encoding: "
            "not supported"
        )
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False  # CLIP's weights are loaded next
    return config


def download(architecture: str, weights: str, published: dict[str, Any]) -> Path:
    """The file of published weights, from open_clip's cache or from the network.

    If neither works, a ValueError says what to download and where to put it.
    """
    try:
        return Path(download_pretrained(published))
    except (OSError, RuntimeError) as error:
        hub = published.get("hf_hub", "").rstrip("/")
        source = f"https://huggingface.co/{hub}" if hub else published.get("url")
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"weights: cannot download {weights!r} of {architecture} ({reason}). Without a "
            f"network: put the .safetensors or .bin file of {source} into data/weights/ and set "
            "`pretrained.weights` in params.yaml to its path, for example "
            "data/weights/open_clip_model.safetensors"
        ) from error


def load_weights(clip: Clip, path: Path, architecture: str) -> None:
    """Load a checkpoint of open_clip; a ValueError says which tensors do not fit the model."""
    try:
        result = load_checkpoint(clip.model, str(path), strict=False)
        problems = {"missing": result.missing_keys, "unknown": result.unexpected_keys}
    except Exception as error:  # damaged files are unpickled into errors of every kind
        if not isinstance(error, RuntimeError) or "size mismatch" not in str(error):
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path}: not a readable checkpoint ({reason})") from error
        problems = {"of another shape": re.findall(r"size mismatch for (.*?): ", str(error))}
    listed = []
    for what, keys in problems.items():
        if keys:
            more = ", ..." if len(keys) > MAX_LISTED else ""
            listed.append(f"{len(keys)} {what} ({', '.join(keys[:MAX_LISTED])}{more})")
    if listed:
        raise ValueError(f"{path} does not fit {architecture}: tensors {'; '.join(listed)}")
