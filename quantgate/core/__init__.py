"""Records and words that everybody shares: errors, requests, items, metrics, results, keys."""
