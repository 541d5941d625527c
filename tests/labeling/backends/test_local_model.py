from rlaif_pl.labeling.backends.local_model import LocalModel
from rlaif_pl.models import BackboneOptions


def test_a_model_is_loaded_once_and_on_its_device(folders, device):
    model = LocalModel(BackboneOptions(folders["mistral"]), device.type)
    assert model.backbone is model.backbone
    assert next(model.top.parameters()).device.type == device.type
    assert model.info.max_model_len == 512
    assert model.unembedding is model.backbone.model.lm_head
