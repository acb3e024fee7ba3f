"""Weights that are not there must be missed at once, and cached ones found without a network."""

from pathlib import Path

import pytest
import timm
from huggingface_hub import constants

from unmask.encoders import published

NAME = "vit_tiny_patch16_224"


class Session:
    """A client that counts its questions; the network is there or not."""

    def __init__(self, *, online: bool) -> None:
        self.online, self.asked = online, 0

    def head(self, url: str, *, timeout: float) -> None:
        assert url == constants.ENDPOINT and 0 < timeout <= 10
        self.asked += 1
        if not self.online:
            raise RuntimeError("Name or service not known")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path


def session(monkeypatch: pytest.MonkeyPatch, *, online: bool) -> Session:
    made = Session(online=online)
    monkeypatch.setattr(published, "get_session", lambda: made)
    return made


def test_without_network_one_question_is_asked(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = session(monkeypatch, online=False)
    with pytest.raises(ConnectionError, match="does not answer"):
        published.require_weights(NAME)
    assert made.asked == 1


def test_with_network_timm_fetches(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session(monkeypatch, online=True)
    published.require_weights(NAME)


def test_cached_weights_need_no_network(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = session(monkeypatch, online=False)
    owner, repository = timm.get_pretrained_cfg(NAME).hf_hub_id.split("/")
    folder = empty_cache / f"models--{owner}--{repository}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123")
    (folder / "snapshots" / "0123").mkdir(parents=True)
    (folder / "snapshots" / "0123" / "model.safetensors").write_bytes(b"")
    published.require_weights(NAME)
    assert made.asked == 0
