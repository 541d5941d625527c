"""The README's Python code trains a policy and leaves it on the disk."""

import re
from pathlib import Path

from rlaif_pl import Policy, RewardModel

README = Path(__file__).parents[2] / "README.md"


def test_it_fits_on_two_pages():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_the_python_code_leaves_a_policy_that_can_be_read(
    tiny_model_folder, small_prompts, tmp_path, monkeypatch
):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for here, tiny in (
        ('"smollm2-135m", trunk_layers=20', f'"{tiny_model_folder}", trunk_layers=2'),
        (
            "max_steps=20, gradient_clip_val=1.0",
            "max_steps=1, logger=False, enable_checkpointing=False",
        ),
    ):
        assert here in code
        code = code.replace(here, tiny)
    monkeypatch.chdir(tmp_path)
    names = {"my_prompts": [prompt.text for prompt in small_prompts]}
    exec(code, names)
    again = Policy.from_pretrained("mine", frozen=True, device="cpu")
    assert again.template == names["module"].policy.template
    (call,) = re.findall(r"module\.reward\.(\w+)\(", code)
    assert callable(getattr(RewardModel, call))
