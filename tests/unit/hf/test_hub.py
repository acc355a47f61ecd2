"""Where a checkpoint comes from: a path as it is, a hub name through the hub, anything else an error."""

import pytest

from ctxcompress_integrations.errors import ModelLoadError
from ctxcompress_integrations.hf.hub import CHECKPOINT_FILES, checkpoint_path


def test_paths_and_hub_names(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: asked.append((a, k)) or "/whole")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: asked.append((a, k)) or "/one")
    (tmp_path / "w.pt").touch()
    assert checkpoint_path(tmp_path / "w.pt") == tmp_path / "w.pt"
    assert checkpoint_path(tmp_path) == tmp_path
    assert not asked
    assert str(checkpoint_path("owner/name")) == "/whole"
    assert str(checkpoint_path("owner/name/folder/file.pt")) == "/one"
    assert asked == [
        (("owner/name",), {"allow_patterns": CHECKPOINT_FILES}),
        (("owner/name", "folder/file.pt"), {}),
    ]


@pytest.mark.parametrize("name", ["nowhere", "", "/absolute/nowhere", "owner/", "owner/name", "owner/name/file.pt"])
def test_nowhere(name):
    with pytest.raises(ModelLoadError):
        checkpoint_path(name)
