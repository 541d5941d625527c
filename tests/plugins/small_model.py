"""Write a random Llama that vLLM's CPU attention takes (heads of 64), and a byte-level tokenizer."""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def write(folder: Path, tied: bool = True) -> Path:
    names = ["<pad>", "</s>", "<end>", *BYTES]
    core = Tokenizer(models.BPE(vocab={name: n for n, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(names[:3])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", pad_token="<pad>", model_max_length=2048
    )
    config = LlamaConfig(
        vocab_size=len(names),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.1,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(11)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=[1, 2])  # several ends
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    write(Path(sys.argv[1]))
