"""Measurements that tell whether to believe a run: labeler, reward, policy.

::

    alignment/      does a labeler agree with people: figures, tables of labelers, the gate
    matrix/         several policies, each against each, by several judges
    harmlessness/   harmless rates, and what rounds of revision did to harmful requests
    reward_accuracy, policy, policy_report, selection, win_rate, judges
                    a reward model, a policy beside SFT, which checkpoint to keep, and what they
                    compare with
    metrics, samples, verdicts, pairs
                    files that commands write; pairs as arrays
"""
