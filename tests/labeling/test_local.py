from rlaif_pl.labeling.backends.local_model import LocalModel


def test_a_model_is_loaded_once_and_on_its_device(folders, device):
    model = LocalModel(folders["mistral"], device=device.type)
    assert model.backbone is model.backbone
    assert next(model.top.parameters()).device.type == device.type
    assert model.info.max_model_len == 512
    assert model.unembedding is model.backbone.model.lm_head
