"""How one task becomes traces in several turns: environments, tools, and the rollout that steps them."""
