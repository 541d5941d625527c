"""What labeling leaves behind: every reply, what it cost, how outcomes and positions fell."""
