"""Memory: what a run needs, what the machine gives, and what would fit instead."""
