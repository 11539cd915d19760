import pytest
import torch

from animora_server.errors import ConfigurationError
from animora_server.scorer import Device
from animora_server.settings import ScorerSettings


def device_named(name):
    return Device(ScorerSettings(device=name), on_fault=lambda: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_where_there_is_none_is_a_wrong_option(name):
    with pytest.raises(ConfigurationError, match=rf"^scorer\.device: {name}, .* say cpu or auto"):
        device_named(name)


def test_auto_takes_what_there_is():
    assert str(device_named("auto")) == ("cuda" if torch.cuda.is_available() else "cpu")
