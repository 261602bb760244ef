"""Measurements that compare in one run on one machine and print ratios."""
