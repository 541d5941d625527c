"""Label pairs by a model that vLLM serves, and print each label with what it rests on.

pip install 'rlaif_pl[endpoint]'
vllm serve Qwen/Qwen2.5-7B-Instruct --enable-prefix-caching
python examples/label_with_vllm.py http://localhost:8000/v1 Qwen/Qwen2.5-7B-Instruct pairs.jsonl
"""

import argparse

import rlaif_pl as rl
from rlaif_pl.data.sources import load_preferences


def main(base_url: str, model: str, pairs: str, limit: int, store: str) -> list[rl.Preference]:
    """Ask in both orders and average; ``store`` keeps the answers, so that none is asked for twice."""
    rows = load_preferences(rl.DataSource(pairs, limit=limit)).rows
    server = rl.EndpointBackend(base_url, model, concurrency=16)
    labeled = rl.label(rows, rl.PairwiseLabeler(server), store=store)
    print("P(first)  order gap  outside '1' and '2'  prompt")
    for row in labeled:
        why = row.provenance
        print(
            f"{row.p_first:8.3f}  {why.position_gap:9.3f}  {why.off_option_mass:19.3f}  "
            f"{row.prompt[:60]!r}"
        )
    gaps = [row.provenance.position_gap or 0.0 for row in labeled]
    print(f"{len(labeled)} of {len(rows)} labeled; mean order gap {sum(gaps) / len(gaps):.3f}")
    return labeled


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "base_url", help="address with the version, such as http://localhost:8000/v1"
    )
    parser.add_argument("model", help="name of the model at the server")
    parser.add_argument("pairs", nargs="?", default="tiny_tldr/pairs", help="file or data set")
    parser.add_argument("--limit", type=int, default=20, help="first so many pairs")
    parser.add_argument("--store", default="labels.sqlite", help="file that keeps the answers")
    main(**vars(parser.parse_args()))
