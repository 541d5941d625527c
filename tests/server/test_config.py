"""A backend is named in a config by class path."""

from jsonargparse import ArgumentParser

from rlaif_pl.rl import GenerationBackend, LocalGenerator, VLLMGenerator


def test_backends_are_named_by_class_path():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--rollout", type=GenerationBackend | None)
    server = {"base_url": ["http://127.0.0.1:1", "http://127.0.0.1:2/v1"], "adapter_dir": "x"}

    def made(name, **init):
        node = {"rollout": {"class_path": f"rlaif_pl.rl.{name}", "init_args": init}}
        return parser.instantiate(parser.parse_object(node)).rollout

    assert isinstance(made("LocalGenerator"), LocalGenerator)
    generator = made("VLLMGenerator", **server)
    assert isinstance(generator, VLLMGenerator)
    urls = [client.url for client in generator.servers.all]
    assert urls == ["http://127.0.0.1:1", "http://127.0.0.1:2"]
