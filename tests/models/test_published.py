"""Published models through open_clip: what is loaded, what is refused, and the messages."""

import copy
import json
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from open_clip import pretrained
from safetensors.torch import save_file

from carot_lib.layout import Layout
from carot_lib.models.clip import build_clip, load_clip
from carot_lib.models.published import OpenClipParams, config_of
from carot_lib.stages.pretrain import pretrain

NAMES = ["umbrella", "black chess queen", "digit six"]
TINY = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 4,
        "layers": 2,
    },
}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Small architectures under names that open_clip knows from here on."""
    folder = tmp_path_factory.mktemp("architectures")
    both_ways = copy.deepcopy(TINY) | {"custom_text": True}
    both_ways["text_cfg"] |= {"no_causal_mask": True}
    wide = copy.deepcopy(TINY) | {"embed_dim": 24}
    for name, config in {
        "test-tiny-quickgelu": TINY,
        "test-tiny": {key: value for key, value in TINY.items() if key != "quick_gelu"},
        "test-tiny-custom": TINY | {"custom_text": True},
        "test-tiny-both-ways": both_ways,
        "test-tiny-wide": wide,
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")


def random_model(architecture: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return open_clip.create_model(architecture, pretrained=None).eval()


def checkpoint(folder: Path, architecture: str, extension: str = "safetensors") -> Path:
    """A file of random weights, as people publish them."""
    state = random_model(architecture).state_dict()
    path = folder / f"{architecture}.{extension}"
    if extension == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    return path


def params(architecture: str, weights: str | Path) -> OpenClipParams:
    return OpenClipParams(kind="open_clip", architecture=architecture, weights=str(weights))


def message_of(folder: Path, architecture: str, weights: str | Path) -> str:
    with pytest.raises(ValueError, match=r"architecture|weights|checkpoint|fit") as caught:
        params(architecture, weights).load(folder)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("extension", ["safetensors", "pt"])
@pytest.mark.parametrize(
    "architecture", ["test-tiny-quickgelu", "test-tiny-custom", "test-tiny-both-ways"]
)
def test_a_checkpoint_file_is_open_clips_model(tmp_path: Path, architecture: str, extension: str):
    path = checkpoint(tmp_path, architecture, extension)
    clip = params(architecture, path.name).load(tmp_path)  # from the project's folder
    assert not clip.training
    assert clip.trims_texts == (architecture != "test-tiny-both-ways")
    expected = random_model(architecture)
    images = torch.randn(2, 3, 16, 16)
    tokens = open_clip.get_tokenizer(architecture)(["a photo of a cat", "a dog"])
    torch.testing.assert_close(
        clip.encode_images(images), expected.encode_image(images, normalize=True)
    )
    torch.testing.assert_close(
        clip.encode_texts(tokens), expected.encode_text(tokens, normalize=True)
    )


def test_the_config_and_the_activation_travel_with_the_checkpoint(tmp_path: Path):
    tree = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    tree["imagenet"]["pretrained"] = {
        "kind": "open_clip",
        "architecture": "test-tiny-quickgelu",
        "weights": checkpoint(tmp_path, "test-tiny-quickgelu").name,
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    layout = Layout(tmp_path, "imagenet")
    pretrain(layout)
    assert {path.name for path in layout.pretrained.iterdir()} == {"clip.json", "clip.safetensors"}
    assert json.loads((layout.pretrained / "clip.json").read_text())["quick_gelu"] is True
    loaded, images = load_clip(layout.pretrained), torch.randn(2, 3, 16, 16)
    expected = random_model("test-tiny-quickgelu").encode_image(images, normalize=True)
    torch.testing.assert_close(loaded.encode_images(images), expected)
    state = loaded.model.state_dict()
    other = build_clip(config_of("test-tiny")).eval()
    other.model.load_state_dict(state)  # the weights alone do not tell the activation
    assert not torch.allclose(other.encode_images(images), expected, atol=1e-5)


def test_the_image_transform_of_published_weights_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = checkpoint(tmp_path, "test-tiny-quickgelu")
    card = {
        "file": str(path),
        "quick_gelu": True,
        "mean": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "test-tiny-quickgelu", {"mine": card})
    clip = params("test-tiny-quickgelu", "mine").load(tmp_path)
    assert clip.config["preprocess_cfg"] == {"mean": (0.5, 0.5, 0.5)}
    assert clip.preprocessing.size == 16


@pytest.mark.parametrize(
    ("architecture", "weights", "instead"),
    [
        ("ViT-B-16", "openai", "write ViT-B-16-quickgelu"),
        ("ViT-L-14", "openai", "write ViT-L-14-quickgelu"),
    ],
)
def test_weights_of_another_activation_are_refused(
    tmp_path: Path, architecture: str, weights: str, instead: str
):
    message = message_of(tmp_path, architecture, weights)
    assert message.endswith(instead)
    assert "QuickGELU" in message


def test_the_papers_model_has_its_activation():
    config = config_of("ViT-B-16-quickgelu")
    assert config["quick_gelu"] is True
    assert pretrained.get_pretrained_cfg("ViT-B-16-quickgelu", "openai")["quick_gelu"] is True


def test_an_unknown_architecture_names_its_neighbours(tmp_path: Path):
    message = message_of(tmp_path, "ViT-B-16-quickglu", "openai")
    assert "did you mean ViT-B-16-quickgelu" in message


@pytest.mark.parametrize("architecture", ["coca_ViT-B-32", "ViT-B-16-SigLIP", "roberta-ViT-B-32"])
def test_what_cannot_be_trained_here_is_refused(tmp_path: Path, architecture: str):
    assert message_of(tmp_path, architecture, "x").endswith("not supported")


def test_unknown_weights_are_said_with_the_known_ones(tmp_path: Path):
    message = message_of(tmp_path, "ViT-B-16-quickgelu", "opnai")
    assert "'opnai' is neither a file" in message
    assert "openai" in message.split("(")[-1]


def test_without_a_network_it_is_said_what_to_download_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(card: dict) -> str:
        raise FileNotFoundError("Failed to download file: Name or service not known")

    monkeypatch.setattr("carot_lib.models.published.download_pretrained", fail)
    message = message_of(tmp_path, "ViT-B-16-quickgelu", "openai")
    assert "cannot download 'openai' of ViT-B-16-quickgelu" in message
    assert "https://huggingface.co/timm/vit_base_patch16_clip_224.openai" in message
    assert "data/weights/" in message


@pytest.mark.parametrize(
    ("change", "problem", "tensors"),
    [
        ("missing", "2 missing", ["ln_final.bias", "visual.proj"]),
        ("unknown", "1 unknown", ["head.weight"]),
        ("wide", "2 of another shape", ["visual.proj", "text_projection"]),
    ],
)
def test_weights_that_do_not_fit_name_their_tensors(
    tmp_path: Path, change: str, problem: str, tensors: list[str]
):
    state = random_model(f"test-tiny-{'wide' if change == 'wide' else 'quickgelu'}").state_dict()
    if change == "missing":
        del state["visual.proj"], state["ln_final.bias"]
    elif change == "unknown":
        state["head.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "x.safetensors")
    message = message_of(tmp_path, "test-tiny-quickgelu", "x.safetensors")
    assert f"x.safetensors does not fit test-tiny-quickgelu: tensors {problem} (" in message
    assert all(name in message for name in tensors)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x.bin"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x80\x02junk"])
def test_a_file_that_is_no_checkpoint_is_said(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    assert "not a readable checkpoint" in message_of(tmp_path, "test-tiny-quickgelu", name)
