"""Console: what happened and why, folded from all facts of the control plane. It decides and says nothing."""
