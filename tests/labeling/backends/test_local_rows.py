"""Calls as token rows."""

import pytest
from transformers import AutoTokenizer

from rlaif_pl.labeling.backends.local_rows import Encoder
from rlaif_pl.labeling.calls import Question


def test_a_chat_template_of_parts_alone_is_refused(chat_model_folder):
    tokenizer = AutoTokenizer.from_pretrained(chat_model_folder)
    question = Question("Which is better?", chat=True)
    assert "Which is better?" in tokenizer.decode(Encoder(tokenizer, 99).question(question).ids)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}\n{% for part in m.content %}{{ part.text }}{% endfor %}"
        "{% endfor %}assistant\n"
    )
    with pytest.raises(ValueError, match="got one that leaves it out; .* ask in plain text"):
        Encoder(tokenizer, 99).question(question)
