"""The pre-trained model of a profile: made here, or published and loaded through open_clip."""

import difflib
from pathlib import Path
from typing import Any, Literal

import open_clip
from open_clip.factory import get_model_config, load_checkpoint
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from open_clip.transform import PreprocessCfg

from carot_lib.models.clip import Clip, build_clip
from carot_lib.schema import StrictParams

PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")  # what published weights fix
NAMED = 5  # keys that a message names


class MiniatureClipParams(StrictParams):
    """The miniature's CLIP, made by the numbers under `miniature:`."""

    kind: Literal["miniature"]


class OpenClipParams(StrictParams):
    """A pre-trained model that open_clip knows."""

    kind: Literal["open_clip"]
    architecture: str  # a name of open_clip's
    weights: str  # a name that open_clip knows for it, or a checkpoint file, from the project

    def load(self, root: Path) -> Clip:
        """The model, in evaluation mode and full precision.

        Args:
            root: the project's folder.

        Raises:
            ValueError: there is no such architecture or no such weights, they do not fit together,
                or they cannot be downloaded; the message says what to do.
        """
        config = config_of(self.architecture)
        published = get_pretrained_cfg(self.architecture, self.weights)
        if published:
            check_activation(self.architecture, config, self.weights, published)
            config |= preprocessing_of(published)
            path = download(self.architecture, self.weights, published)
        else:
            path = root / self.weights
        if not path.is_file():
            known = ", ".join(open_clip.list_pretrained_tags_by_model(self.architecture)) or "none"
            raise ValueError(
                f"weights: {self.weights!r} is neither a file (looked at {path}) nor weights that "
                f"open_clip knows for {self.architecture} ({known})"
            )
        clip = build_clip(config)
        load_weights(clip, path, self.architecture)
        return clip.eval()


def config_of(architecture: str) -> dict[str, Any]:
    """What `build_clip` needs to build an architecture of open_clip's.

    Raises:
        ValueError: open_clip does not know it, or it is none that can be trained here: one that
            also writes captions, or whose texts are not in CLIP's byte-pair encoding.
    """
    config = get_model_config(architecture)
    if config is None:
        near = difflib.get_close_matches(architecture, open_clip.list_models(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"architecture: open_clip knows no {architecture!r}{hint}")
    if "multimodal_cfg" in config:
        raise ValueError(f"architecture: {architecture} also writes captions: not supported")
    text = config["text_cfg"]
    if any(text.get(key) for key in ("hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs")):
        raise ValueError(
            f"architecture: the texts of {architecture} are not in CLIP's byte-pair encoding: "
            "not supported"
        )
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False  # CLIP's weights come right after
    return config


def check_activation(
    architecture: str, config: dict[str, Any], weights: str, published: dict[str, Any]
) -> None:
    """Refuse an architecture whose activation is not the one the weights were trained with.

    open_clip itself only warns, and the accuracy drops by points: plain ViT-B-16 with the weights
    of OpenAI uses GELU where they need QuickGELU (open_clip, issue 1109).

    Raises:
        ValueError: they differ; the message names the architecture to use.
    """
    uses, needs = config.get("quick_gelu", False), published.get("quick_gelu", False)
    if uses != needs:
        plain = architecture.removesuffix("-quickgelu")
        raise ValueError(
            f"architecture: the weights {weights!r} were trained with "
            f"{'QuickGELU' if needs else 'GELU'}, {architecture} computes with "
            f"{'QuickGELU' if uses else 'GELU'}: write {plain}{'-quickgelu' if needs else ''}"
        )


def preprocessing_of(published: dict[str, Any]) -> dict[str, Any]:
    """As `preprocess_cfg`, where the image transform of published weights is not CLIP's."""
    special = {
        key: published[key]
        for key in PREPROCESSING
        if key in published and published[key] != getattr(PreprocessCfg, key)
    }
    return {"preprocess_cfg": special} if special else {}


def download(architecture: str, weights: str, published: dict[str, Any]) -> Path:
    """The file of published weights, from open_clip's cache or from the network.

    Raises:
        ValueError: neither works; the message says what to download and where to put it.
    """
    try:
        return Path(download_pretrained(published))
    except (OSError, RuntimeError) as error:
        hub = published.get("hf_hub", "").rstrip("/")
        source = f"https://huggingface.co/{hub}" if hub else published.get("url")
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"weights: cannot download {weights!r} of {architecture} ({reason}). Without a "
            f"network: take the .safetensors or .bin file of {source} to data/weights/ and write "
            "its path, for example data/weights/open_clip_model.safetensors, as "
            "`pretrained.weights` in params.yaml"
        ) from error


def load_weights(clip: Clip, path: Path, architecture: str) -> None:
    """Load a checkpoint of open_clip's into a model.

    Raises:
        ValueError: the file is no checkpoint, or its tensors are not those of the model; the
            message names them.
    """
    try:
        result = load_checkpoint(clip.model, str(path), strict=False)
        faults = {"missing": result.missing_keys, "unknown": result.unexpected_keys}
    except Exception as error:  # damaged files are unpickled into errors of every kind
        if not isinstance(error, RuntimeError) or "size mismatch" not in str(error):
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path}: not a readable checkpoint ({reason})") from error
        lines = [line for line in str(error).splitlines() if "size mismatch for " in line]
        mismatched = [line.split("size mismatch for ")[1].split(": ")[0] for line in lines]
        faults = {"of another shape": mismatched}
    named = [
        f"{len(keys)} {what} ({', '.join(keys[:NAMED])}{', ...' if len(keys) > NAMED else ''})"
        for what, keys in faults.items()
        if keys
    ]
    if named:
        raise ValueError(f"{path} does not fit {architecture}: tensors {'; '.join(named)}")
