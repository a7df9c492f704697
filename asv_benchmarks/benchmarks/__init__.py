"""The performance history: asv runs these for every commit; `common` holds what they share."""
