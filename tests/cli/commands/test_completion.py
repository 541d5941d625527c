"""The completion script, in bash itself."""

import shutil
import subprocess

import pytest

from rlaif_pl.cli import main as cli

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_shtab_rlaif_pl; printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "rlaif-pl"
    with pytest.MonkeyPatch.context() as patch, open(path, "w", encoding="utf-8") as file:
        patch.setattr("sys.stdout", file)
        assert cli.main(["completion", "bash"]) == 0
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ev"], ["evaluate"]),
        (["evaluate", "p"], ["policy"]),
        (["label", "--gate.action", ""], ["warn", "stop", "off"]),
        (["label", "--labeler.h"], ["--labeler.help"]),
        (["run", "--dry"], ["--dry_run"]),
        (["fit", "--trainer.max_s"], ["--trainer.max_steps"]),
        (["evaluate", "policy", "--sampling.te"], ["--sampling.temperature"]),
    ],
)
def test_bash_completes(script, words, expected):
    asked = ["bash", "-c", ASK, "bash", str(script), "rlaif-pl", *words]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_another_shell_is_refused_with_the_known_ones(capsys):
    assert cli.main(["completion", "dos"]) == 1
    assert "got 'dos'; take one of them" in capsys.readouterr().err
