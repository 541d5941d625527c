"""Measurements that tell whether to believe a run: labeler, reward, policy.

::

    agreement/      does a labeler agree with people: figures, tables of labelers, the gate
    win_rates/      several policies, each against each, by several judges
    harmlessness/   harmless rates, and what rounds of revision did to harmful requests
    reward_accuracy, policy, selection, win_rate, judges
                    a reward model, a policy beside SFT, which checkpoint to keep, and what they
                    compare with
    samples, pairs  files that commands write; pairs as arrays
"""
